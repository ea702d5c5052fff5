"""Read shards with open_clip's own data pipeline, and print what it saw. A process of its own: webdataset leaves files open.

Arguments: the pattern of the train shards, that of the val shards, the number of val samples.
"""

import json
import sys
from functools import partial
from types import SimpleNamespace

import open_clip
from open_clip_train import data
from webdataset.tariterators import tar_file_expander

# open_clip's training part asks for webdataset <= 0.2.86. Later versions mark the end of each shard, which it does not know
# (webdataset issue 384); without the marks it runs as published.
data.tar_file_expander = partial(tar_file_expander, eof_value=None)


def main() -> None:
    train, val, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    args = SimpleNamespace(
        train_data=train, val_data=val, train_num_samples=None, val_num_samples=count, seed=0, workers=0, batch_size=6,
        world_size=1, dataset_resampled=False, train_data_upsampling_factors=None,
    )  # fmt: skip
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    preprocess = open_clip.image_transform(32, is_train=False)
    training = data.get_wds_dataset(args, preprocess, is_train=True, tokenizer=tokenizer)
    evaluation = data.get_wds_dataset(args, preprocess, is_train=False, tokenizer=tokenizer)
    found = {
        "size": data.get_dataset_size(train),
        "train": [[list(images.shape), list(tokens.shape)] for images, tokens in training.dataloader],
        "val": [row for _, tokens in evaluation.dataloader for row in tokens.tolist()],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

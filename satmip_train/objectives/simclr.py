"""SimCLR: two views of an image attract, the paper's baseline (section 3.2, eq. 3)."""

from torch import Tensor

from satmip_train.config import Settings
from satmip_train.models.heads import ssl_head
from satmip_train.objectives.losses import chance_level, view_loss
from satmip_train.objectives.term import Encoders, Inputs, Term


class SimCLR(Term):
    """Image-image learning, at a fixed temperature."""

    part = "loss_views"
    views = 2
    encoded = 2
    reads = frozenset({"ssl_hidden", "ssl_dim", "temperature", "negatives"})
    weight = "simclr_weight"

    def __init__(self, settings: Settings, encoders: Encoders) -> None:
        super().__init__(settings, encoders)
        self.head = ssl_head(encoders.width, settings.ssl_hidden, settings.ssl_dim)
        self.projection = settings.ssl_dim

    def forward(self, inputs: Inputs) -> Tensor:
        """See `Term.forward`."""
        # The head's batch norms see each view separately.
        one, two = self.head(inputs.one), self.head(inputs.two)
        inputs.projections.append(one)
        return view_loss(one, two, self.settings.temperature, self.settings.negatives, inputs.excluded)

    def chance(self) -> float:
        """See `Term.chance`."""
        return chance_level(self.settings.batch_size, self.settings.negatives)

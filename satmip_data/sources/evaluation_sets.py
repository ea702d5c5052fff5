"""The evaluation sets that come as folders of classes, with the sizes of the paper's splits (Table S1).

NOTE[DIFF]: the paper takes the lists of TorchGeo for EuroSAT, RESISC45 and UC Merced, which are no part of this package. Where
`split_file` does not name them, splits of the same sizes are dealt from a seed, each class alike.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from satmip_data.sources.imagefolder import ImageFolder


@dataclass(frozen=True)
class EuroSat(ImageFolder):
    """EuroSAT (Helber et al. 2019): 27,000 Sentinel-2 images of 64 x 64 pixels and 10 m; 16,200 / 5,400 / 5,400.

    The JPEG form knows its GSD and no location; the 13-band GeoTIFF form (`EuroSATallBands`) knows both, and needs a stretch.
    """

    name: ClassVar[str] = "eurosat"
    licence: ClassVar[str] = "MIT"
    default_shares: ClassVar[str] = "train=60,val=20,test=20"
    classes: ClassVar[tuple[str, ...]] = (
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential", "River",
        "SeaLake",
    )  # fmt: skip
    known: ClassVar[dict[str, Any]] = {"gsd": (10.0, 10.0), "platform": "SENTINEL-2"}


@dataclass(frozen=True)
class Resisc45(ImageFolder):
    """NWPU-RESISC45 (Cheng et al. 2017): 31,500 images of 256 x 256 pixels, 700 a class; 18,900 / 6,300 / 6,300."""

    name: ClassVar[str] = "resisc45"
    licence: ClassVar[str] = "none stated by its authors; images from Google Earth"
    default_shares: ClassVar[str] = "train=60,val=20,test=20"
    classes: ClassVar[tuple[str, ...]] = (
        "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
        "circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway", "golf_course",
        "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow", "medium_residential",
        "mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway", "railway_station",
        "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship", "snowberg", "sparse_residential", "stadium",
        "storage_tank", "tennis_court", "terrace", "thermal_power_station", "wetland",
    )  # fmt: skip


@dataclass(frozen=True)
class Optimal31(ImageFolder):
    """OPTIMAL-31 (Wang et al. 2019): 1,860 images of 256 x 256 pixels, 60 a class; 930 / 930, as the paper at random.

    NOTE[DIFF]: dealt class by class, so that both halves hold 30 of each.
    """

    name: ClassVar[str] = "optimal31"
    licence: ClassVar[str] = "none stated by its authors; images from Google Earth"
    default_shares: ClassVar[str] = "train=50,test=50"
    classes: ClassVar[tuple[str, ...]] = (
        "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
        "circular_farmland", "commercial_area", "dense_residential", "desert", "forest", "freeway", "golf_course",
        "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow", "medium_residential",
        "mobile_home_park", "mountain", "overpass", "parking_lot", "railway", "rectangular_farmland", "roundabout", "runway",
    )  # fmt: skip


@dataclass(frozen=True)
class UcMerced(ImageFolder):
    """UC Merced Land Use (Yang and Newsam 2010): 2,100 aerial images of 256 x 256 pixels and 0.3 m, 100 a class; 1,260 / 840.

    The test split is the paper's: what others keep apart as val and test, combined, also in lists that name a val. 44 images are a
    few pixels smaller or larger; all chips are of 256 pixels, as TorchGeo's.
    """

    name: ClassVar[str] = "ucmerced"
    default_size: ClassVar[int | None] = 256
    joined: ClassVar[dict[str, str]] = {"val": "test"}
    licence: ClassVar[str] = "public domain (USGS National Map Urban Area Imagery)"
    default_shares: ClassVar[str] = "train=60,test=40"
    classes: ClassVar[tuple[str, ...]] = (
        "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest", "freeway",
        "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass", "parkinglot", "river",
        "runway", "sparseresidential", "storagetanks", "tenniscourt",
    )  # fmt: skip
    known: ClassVar[dict[str, Any]] = {"gsd": (0.3, 0.3)}


@dataclass(frozen=True)
class Fgsc23(ImageFolder):
    """FGSC-23 (Zhang et al. 2020): ships, 23 classes, images of 40 to 800 pixels; its folders train and test hold 3,256 and 824.

    Classes are named as their folders, by number.
    """

    name: ClassVar[str] = "fgsc23"
    licence: ClassVar[str] = "none stated by its authors; images from Google Earth and Gaofen-1"
    default_shares: ClassVar[str] = "train=80,test=20"

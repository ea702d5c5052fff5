"""The names of the metadata fields, as settings and captions write them. Which columns a field has is in `dataset.json`."""

from collections.abc import Iterable

FIELDS = (
    "gsd", "multispectral_gsd", "pixel_size", "timestamp", "location", "utm_zone", "country_code", "cloud_cover", "scan_direction",
    "wavelengths", "target_azimuth_angle", "sun_azimuth_angle", "sun_elevation_angle", "off_nadir_angle", "sensor_platform",
)  # fmt: skip
"""The 15 fields in the order of the authors' poster."""

OPENINGS: dict[str, str] = {
    "gsd": "Each pixel covers",
    "multispectral_gsd": "The multispectral ground sample distance is",
    "pixel_size": "A pixel spans",
    "timestamp": "The image was taken on",
    "location": "It is centred at",
    "utm_zone": "It lies in UTM zone",
    "country_code": "The country code is",
    "cloud_cover": "Clouds cover",
    "scan_direction": "The scan direction is",
    "wavelengths": "The bands are centred at",
    "target_azimuth_angle": "The target azimuth is",
    "sun_azimuth_angle": "The sun stands at azimuth",
    "sun_elevation_angle": "The sun's elevation is",
    "off_nadir_angle": "The view is off nadir by",
    "sensor_platform": "The sensor is",
}
"""How the sentence of each field begins in captions of the style "sentence": the same as `satmip-data` writes."""

ALIASES: dict[str, tuple[str, ...]] = {
    "msgsd": ("multispectral_gsd",),
    "pixel": ("pixel_size",),
    "time": ("timestamp",),
    "loc": ("location",),
    "utm": ("utm_zone",),
    "country": ("country_code",),
    "cloud": ("cloud_cover",),
    "scan": ("scan_direction",),
    "wave": ("wavelengths",),
    "target_azimuth": ("target_azimuth_angle",),
    "sun_azimuth": ("sun_azimuth_angle",),
    "sun_elevation": ("sun_elevation_angle",),
    "off_nadir": ("off_nadir_angle",),
    "sensor": ("sensor_platform",),
    "angles": tuple(name for name in FIELDS if name.endswith("_angle")),
    "all": FIELDS,
}
"""Short names and groups, each with the fields it stands for: the same as `satmip-data` knows."""


def expand_fields(words: Iterable[str]) -> tuple[str, ...]:
    """Return the fields that names and aliases stand for, each once, in the order of `FIELDS`.

    Raises:
        ValueError: a word is neither, or there is none.
    """
    words = tuple(word.lower() for word in words)
    unknown = [word for word in words if word not in FIELDS and word not in ALIASES]
    if unknown or not words:
        raise ValueError(f"fields must be of {', '.join([*FIELDS, *ALIASES])}, however: {unknown}")
    chosen = {name for word in words for name in ALIASES.get(word, (word,))}
    return tuple(name for name in FIELDS if name in chosen)

"""helpers.poster"""

import datetime as dt

from satmip_data.records import Metadata

TIME = dt.datetime(2015, 9, 21, 15, 30, 8, tzinfo=dt.UTC)
POSTER = Metadata(
    gsd=(11.4546, 9.1344),
    multispectral_gsd=41.1896,
    pixel_size=(1.03e-04, 8.23e-05),
    datetime=TIME,
    location=(-73.310776, -3.785814),
    utm_zone="18M",
    country_code="PER",
    cloud_cover=14,
    scan_direction="Reverse",
    wavelengths=(661, 545, 477),
    target_azimuth=39.12,
    sun_azimuth=77.28,
    sun_elevation=70.44,
    off_nadir=27.70,
    platform="GEOEYE01",
)

"""Towns of every inhabited continent, near which the places of the small world lie, and how wet the land is. Pure."""

from functools import cache
from typing import NamedTuple

import numpy as np

from satmip_data.demo.physics import arcs
from satmip_data.records import Point


class Town(NamedTuple):
    """A town: latitude and longitude in degrees (to about 0.1), ISO 3166-1 alpha-3 code, and how wet its land is."""

    continent: str
    name: str
    lat: float
    lon: float
    country: str
    wet: float
    """0 is desert, 1 is rain forest."""


_TABLE = """
AF Cairo 30.0 31.3 EGY 0; AF Tamanrasset 22.8 5.5 DZA 0; AF Marrakesh 31.6 -8.0 MAR 2; AF Tunis 36.8 10.1 TUN 4
AF Dakar 14.7 -17.2 SEN 3; AF Niamey 13.5 2.1 NER 2; AF Kano 12.0 8.5 NGA 3; AF Lagos 6.6 3.4 NGA 8
AF Accra 5.7 -0.2 GHA 6; AF Douala 4.1 9.8 CMR 9; AF Kisangani 0.5 25.2 COD 9; AF Nairobi -1.2 36.8 KEN 6
AF AddisAbaba 9.0 38.7 ETH 6; AF Khartoum 15.5 32.5 SDN 0; AF Lusaka -15.4 28.3 ZMB 5; AF Upington -28.4 21.2 ZAF 1
AF Johannesburg -26.2 28.1 ZAF 5; AF Paarl -33.7 19.0 ZAF 4; AF Antananarivo -18.9 47.5 MDG 7; AF Maputo -25.9 32.5 MOZ 5
AS Ankara 39.9 32.7 TUR 4; AS Tehran 35.6 51.3 IRN 2; AS Riyadh 24.7 46.7 SAU 0; AS Dubai 25.1 55.3 ARE 0
AS Karachi 24.9 67.1 PAK 1; AS Delhi 28.7 77.1 IND 4; AS Nagpur 21.1 79.1 IND 5; AS Chennai 13.1 80.2 IND 6
AS Colombo 6.9 79.9 LKA 9; AS Dhaka 23.8 90.3 BGD 8; AS PhnomPenh 11.6 104.9 KHM 7; AS Hanoi 21.0 105.8 VNM 8
AS KualaLumpur 3.1 101.6 MYS 9; AS Jakarta -6.3 106.8 IDN 8; AS Makassar -5.2 119.5 IDN 8; AS Manila 14.6 121.0 PHL 8
AS Chengdu 30.6 104.1 CHN 7; AS Wuhan 30.5 114.3 CHN 7; AS Beijing 39.9 116.3 CHN 4; AS Harbin 45.7 126.6 CHN 5
AS Urumqi 43.8 87.6 CHN 1; AS Seoul 37.5 127.0 KOR 6; AS Sapporo 43.1 141.3 JPN 7; AS Osaka 34.7 135.6 JPN 7
AS Ulaanbaatar 47.9 106.9 MNG 2; AS Tashkent 41.3 69.3 UZB 2; AS Astana 51.1 71.4 KAZ 3; AS Novosibirsk 55.0 82.9 RUS 5
AS Yakutsk 62.0 129.7 RUS 4; AS Egvekinot 66.3 -179.1 RUS 5; AS CapeSchmidt 68.9 -179.5 RUS 5; AS Norilsk 69.3 88.2 RUS 5
EU Lisbon 38.8 -9.2 PRT 4; EU Sevilla 37.4 -5.9 ESP 3; EU Madrid 40.4 -3.7 ESP 3; EU Lyon 45.8 4.8 FRA 6
EU Rennes 48.1 -1.7 FRA 7; EU Leeds 53.8 -1.6 GBR 8; EU Cork 51.9 -8.5 IRL 9; EU Hamburg 53.5 10.0 DEU 7
EU Munich 48.1 11.6 DEU 7; EU Zurich 47.4 8.5 CHE 7; EU Milan 45.5 9.2 ITA 6; EU Bari 41.1 16.8 ITA 3
EU Athens 38.1 23.7 GRC 3; EU Bucharest 44.4 26.1 ROU 5; EU Warsaw 52.2 21.0 POL 6; EU Kharkiv 50.0 36.2 UKR 5
EU Moscow 55.7 37.6 RUS 6; EU Samara 53.2 50.2 RUS 5; EU Stockholm 59.3 18.0 SWE 6; EU Oulu 65.0 25.5 FIN 6
EU Tromso 69.7 19.0 NOR 7; EU Longyearbyen 78.2 15.6 SJM 4; EU Reykjavik 64.1 -21.8 ISL 7; EU Kiruna 67.9 20.2 SWE 6
NA Anchorage 61.2 -149.8 USA 6; NA Edmonton 53.5 -113.5 CAN 5; NA Winnipeg 49.9 -97.1 CAN 5; NA Montreal 45.5 -73.7 CAN 7
NA Yellowknife 62.5 -114.4 CAN 5; NA Iqaluit 63.7 -68.5 CAN 4; NA Nuuk 64.2 -51.7 GRL 5; NA Seattle 47.5 -122.2 USA 8
NA Sacramento 38.6 -121.5 USA 3; NA Phoenix 33.4 -112.0 USA 0; NA Denver 39.7 -104.9 USA 3; NA Amarillo 35.2 -101.8 USA 2
NA Omaha 41.2 -96.1 USA 5; NA Chicago 41.9 -87.9 USA 6; NA Columbus 40.0 -83.0 USA 7; NA Atlanta 33.7 -84.4 USA 7
NA Houston 29.8 -95.4 USA 7; NA Tampa 28.0 -82.4 USA 8; NA Monterrey 25.7 -100.3 MEX 2; NA Merida 21.0 -89.6 MEX 6
NA Guatemala 14.6 -90.5 GTM 7; NA Panama 9.0 -79.5 PAN 9; NA Santiago 19.4 -70.7 DOM 7; NA Hilo 19.7 -155.1 USA 9
SA Bogota 4.7 -74.1 COL 7; SA Caracas 10.4 -66.9 VEN 6; SA Quito -0.2 -78.5 ECU 6; SA Iquitos -3.8 -73.3 PER 9
SA Lima -12.0 -77.0 PER 0; SA LaPaz -16.5 -68.2 BOL 2; SA Antofagasta -23.6 -70.4 CHL 0; SA SantiagoDeChile -33.5 -70.6 CHL 3
SA PuertoMontt -41.5 -72.9 CHL 9; SA PuntaArenas -53.1 -70.9 CHL 5; SA Ushuaia -54.8 -68.3 ARG 6; SA Neuquen -38.9 -68.1 ARG 1
SA Cordoba -31.4 -64.2 ARG 4; SA Rosario -32.9 -60.7 ARG 6; SA Montevideo -34.8 -56.2 URY 6; SA Asuncion -25.3 -57.5 PRY 6
SA SaoPaulo -23.5 -46.6 BRA 7; SA Brasilia -15.8 -47.9 BRA 5; SA Recife -8.1 -35.0 BRA 6; SA Manaus -3.1 -60.0 BRA 9
OC Sydney -33.8 151.0 AUS 6; OC Melbourne -37.8 145.0 AUS 5; OC Adelaide -34.9 138.6 AUS 3; OC Perth -32.0 115.9 AUS 3
OC AliceSprings -23.7 133.9 AUS 0; OC Darwin -12.4 131.0 AUS 6; OC Townsville -19.3 146.8 AUS 5; OC Dubbo -32.2 148.6 AUS 3
OC Hobart -42.9 147.3 AUS 6; OC Auckland -36.9 174.8 NZL 7; OC Christchurch -43.5 172.6 NZL 6; OC Chatham -43.9 -176.5 NZL 7
OC Suva -18.1 178.4 FJI 9; OC Taveuni -16.8 179.9 FJI 9; OC PortMoresby -9.4 147.2 PNG 6; OC Lae -6.7 147.0 PNG 9
OC Noumea -22.3 166.4 NCL 6; OC Apia -13.8 -171.8 WSM 9; OC Papeete -17.6 -149.5 PYF 8; OC Honiara -9.4 160.0 SLB 9
"""


@cache
def towns() -> tuple[Town, ...]:
    """Return every town of the table, in its order."""
    rows = [row.split() for line in _TABLE.strip().splitlines() for row in line.split(";")]
    return tuple(Town(c, name, float(lat), float(lon), code, int(wet) / 9) for c, name, lat, lon, code, wet in rows)


def wetness(location: Point) -> float:
    """Return how wet the land is at (longitude, latitude), 0 desert to 1 rain forest: of the towns around, the nearer the more."""
    table = towns()
    away = arcs(location, np.array([(t.lon, t.lat) for t in table]))
    weights = 1.0 / (away + 1.0) ** 4
    return float(weights @ np.array([t.wet for t in table]) / weights.sum())

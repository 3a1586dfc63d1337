"""Create the data on the first deploy, and the OpenAPI document on each."""

import json
import os
import subprocess
from pathlib import Path

import numpy
import rasterio

data = Path(os.environ["DATA_DIR"])
if not (data / "depths.tif").exists():
    depths = numpy.arange(64, dtype="float32").reshape(8, 8)
    grid = {"crs": "EPSG:4326", "transform": rasterio.transform.from_origin(0, 8, 1, 1)}
    with rasterio.open(data / "depths.tif", "w", width=8, height=8, count=1, dtype=depths.dtype, **grid) as file:
        file.write(depths, 1)
if not (data / "sightings.json").exists():
    (data / "sightings.json").write_text(json.dumps({"_default": {}}))
subprocess.run(
    ["pygeoapi", "openapi", "generate", os.environ["PYGEOAPI_CONFIG"], "--output-file", os.environ["PYGEOAPI_OPENAPI"]],
    check=True,
)

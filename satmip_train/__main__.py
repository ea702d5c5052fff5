"""`python -m satmip_train` is `satmip-train`, for torchrun."""

import runpy

if __name__ == "__main__":
    runpy.run_module("satmip_train.cli", run_name="__main__")

"""Questions to the space that images share with their metadata: `satmip-eval ask` and `satmip-eval audit`."""

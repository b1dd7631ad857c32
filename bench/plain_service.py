"""A plain upscaling service: FastAPI, torch in float32, Pillow, one handler.

The baseline of `serving_latency.py` and `serving_throughput.py`, with the same weights. It has no
batching and no tiling, and runs inference on the event loop: a point of comparison, not a
recommendation.

    python bench/plain_service.py models/compact_x4 --port 9000
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image

from superres.model.backends.network import load_network
from superres.model.bundle import load_bundle


def create_app(bundle_folder: Path) -> FastAPI:
    """The service over one bundle's weights."""
    model = load_network(load_bundle(bundle_folder))
    app = FastAPI()

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/enhance")
    async def enhance(request: Request) -> Response:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB")
        lr_bchw = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            sr_bchw = model(lr_bchw).clamp(0, 1)
        sr_hwc_u8 = (sr_bchw[0].permute(1, 2, 0) * 255).round().byte().numpy()
        buffer = io.BytesIO()
        Image.fromarray(sr_hwc_u8).save(buffer, "PNG")
        return Response(buffer.getvalue(), media_type="image/png")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    uvicorn.run(create_app(arguments.bundle), port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()

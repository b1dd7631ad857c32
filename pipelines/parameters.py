"""The parameters of a manual `build_pairs` run; scheduled and event runs use the defaults."""

from airflow.sdk import Param

from pipelines.events import DEFAULT_DEGRADATION

PAIR_PARAMETERS = {
    "source": Param(
        "sample",
        type="string",
        minLength=1,
        description="`sample`, a source of the catalogue (fetched if needed), or one added by "
        "`sharpline data add`; see `sharpline data list`",
    ),
    "also": Param(
        [], type="array", items={"type": "string"}, description="more sources for the same dataset"
    ),
    "watched": Param(
        True, type="boolean", description="include every source that was added with --watch"
    ),
    "mirror": Param(
        None,
        type=["null", "string"],
        description="fetch from this URL or folder instead of the publisher's",
    ),
    "scale": Param(4, enum=[1, 2, 3, 4, 8], description="1 restores a picture at its own size"),
    "degrade": Param(
        DEFAULT_DEGRADATION,
        type="string",
        minLength=1,
        description="one kind, or a weighted mix: {real_esrgan: 0.7, bicubic: 0.3}",
    ),
    "draws": Param(
        1, type="integer", minimum=1, description="low-resolution draws per training picture"
    ),
    "split_every": Param(
        0,
        type="integer",
        minimum=0,
        description="hold out about one picture in N, for sources without a validation split",
    ),
}

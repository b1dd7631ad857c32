"""What a person may ask of a `build_pairs` run; the schedule and events run with the defaults."""

from airflow.sdk import Param

from pipelines.events import USUAL_DEGRADATION

PAIR_PARAMETERS = {
    "source": Param(
        "sample",
        type="string",
        minLength=1,
        description="`sample`, a source of the catalogue (fetched where it is not there yet), or "
        "one added by `sharpline data add`; `sharpline data list` lists them",
    ),
    "also": Param(
        [], type="array", items={"type": "string"}, description="more sources for the same dataset"
    ),
    "watched": Param(
        True, type="boolean", description="and every source that was added with --watch"
    ),
    "mirror": Param(
        None,
        type=["null", "string"],
        description="fetch from this address or folder instead of the publisher's",
    ),
    "scale": Param(4, enum=[1, 2, 3, 4, 8], description="1 restores a picture at its own size"),
    "degrade": Param(
        USUAL_DEGRADATION,
        type="string",
        minLength=1,
        description="one kind, or several by weights: {real_esrgan: 0.7, bicubic: 0.3}",
    ),
    "draws": Param(
        1, type="integer", minimum=1, description="low-resolution pictures drawn for each picture"
    ),
    "split_every": Param(
        0,
        type="integer",
        minimum=0,
        description="hold about one picture in N out, of sources without a validation split",
    ),
}

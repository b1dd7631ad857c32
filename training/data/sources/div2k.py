"""DIV2K and the low-resolution tracks of its challenges: URLs and checksums.

Bytes and sha256 are those that TensorFlow Datasets publishes.
"""

from typing import Literal

from training.data.sources.entries import Archive, Copy, Entry, Part
from training.data.sources.hosts import ETH, HUB

Split = Literal["train", "validation"]
# Bytes and sha256 of NAME.zip.
DIV2K_ARCHIVES = {
    "DIV2K_train_HR": (
        3530603713,
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    ),
    "DIV2K_valid_HR": (
        448993893,
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    ),
    "DIV2K_train_LR_bicubic_X2": (
        925390592,
        "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
    ),
    "DIV2K_valid_LR_bicubic_X2": (
        117763600,
        "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57",
    ),
    "DIV2K_train_LR_bicubic_X3": (
        427847282,
        "ad5c8e5507e2765823d3c2c5bd0934842efcd487c5370604c224090898b3163a",
    ),
    "DIV2K_valid_LR_bicubic_X3": (
        54513392,
        "04b9a2ed3b4a0715d3924d3ae8514830c3328fac8d30512ce716d6f419e052a3",
    ),
    "DIV2K_train_LR_bicubic_X4": (
        246914039,
        "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a",
    ),
    "DIV2K_valid_LR_bicubic_X4": (
        31505881,
        "a50a5d1c4b88de4e8d300d8fb2b904c52fe93b2b298a4899697760d7cbb6d553",
    ),
    "DIV2K_train_LR_x8": (
        65753171,
        "706fa23164fa0756a3accb78e69b937ea47f882b47e13506895deefd623a35c2",
    ),
    "DIV2K_valid_LR_x8": (
        8428103,
        "3432f23da7c6887acc5e2cde9669427a7710b3b256c58912dddc19e3eda5bc69",
    ),
    "DIV2K_train_LR_unknown_X2": (
        734182735,
        "f166eeba119fc55bfc9a99c05561980e7a965382f36640ce8ef626c9f61d122c",
    ),
    "DIV2K_valid_LR_unknown_X2": (
        93433041,
        "ec50bb084c0011130874efd2ed7859b46e0aa7104c565818d5271ac315e04e0a",
    ),
    "DIV2K_train_LR_unknown_X3": (
        377245548,
        "b6455af3b2aa02d76ae3238c49d7aae3b48b0acdc44b5bdc0f4c02d40ebcb43b",
    ),
    "DIV2K_valid_LR_unknown_X3": (
        48143315,
        "ebf23a3e1ef6800cae97285d3a50d022d89b62655e685884c0abcc89eec5b809",
    ),
    "DIV2K_train_LR_unknown_X4": (
        208956781,
        "d131c7aad51e0abbdc4433362ce899e5e75f40b9847ead70ee995188e8fd0adb",
    ),
    "DIV2K_valid_LR_unknown_X4": (
        26695095,
        "e3897555a98de1157c20974fb6093105fbc1ff5e9caf7bd348f58f6da140fbef",
    ),
    "DIV2K_train_LR_mild": (
        275693358,
        "ce5fbe6252d1000c55656b0666dccdeaf8e66b86ae5ff528c49343012e8e1391",
    ),
    "DIV2K_valid_LR_mild": (
        35300939,
        "eedfbcb6acc6662a3f52924aaa5a423693244f3276d37c3fca7944c7325859ff",
    ),
    "DIV2K_train_LR_difficult": (
        263211252,
        "50624a649a0857fdb8e4a948e79c44c37dedbacb5729f9349cc983c47bfdf799",
    ),
    "DIV2K_valid_LR_difficult": (
        33596835,
        "08b4e740496b50846497463121329c707dd8ed26eb8a655d175e9a595286d5e8",
    ),
    "DIV2K_train_LR_wild": (
        1079873385,
        "ce68f7db812d12241212bb9d6b07406472bef3d785c463238888b44189c5ceb3",
    ),
    "DIV2K_valid_LR_wild": (
        34655417,
        "ce921d2048eef3e1fd9ba359d1876b1c93e33bd7a531306f7782672391df9820",
    ),
}
# Mirrors hold the HR pictures only; the tracks are at ETH alone.
DIV2K_MIRRORS = {
    "DIV2K_train_HR": (f"{HUB}/datasets/goodfellowliu/DIV2K/resolve/main/DIV2K_train_HR.zip",),
    "DIV2K_valid_HR": (f"{HUB}/datasets/eugenesiow/Div2k/resolve/main/DIV2K_valid_HR.zip",),
}
# NTIRE 2017: bicubic and unknown; NTIRE 2018: bicubic x8, mild, difficult and wild.
DIV2K_TRACKS = (
    (None, 1),
    *(("bicubic", scale) for scale in (2, 3, 4, 8)),
    *(("unknown", scale) for scale in (2, 3, 4)),
    ("mild", 4),
    ("difficult", 4),
    ("wild", 4),
)


def div2k() -> Entry:
    return Entry(
        name="div2k",
        title="DIV2K: photographs of 2K, with the low-resolution tracks of NTIRE 2017 and 2018",
        authors="Agustsson and Timofte 2017",
        licence="DIV2K: academic research only",
        conditions="for academic research only; the copyright stays with the photographers",
        parts=tuple(
            _div2k_part(split, track, scale)
            for track, scale in DIV2K_TRACKS
            for split in ("train", "validation")
        ),
    )


def _div2k_part(split: Split, track: str | None, scale: int) -> Part:
    half = {"train": "train", "validation": "valid"}[split]
    if track is None:
        stem = folder = f"DIV2K_{half}_HR"
    elif (track, scale) == ("bicubic", 8):
        stem = folder = f"DIV2K_{half}_LR_x8"
    elif track in ("bicubic", "unknown"):
        stem, folder = f"DIV2K_{half}_LR_{track}_X{scale}", f"DIV2K_{half}_LR_{track}/X{scale}"
    else:
        stem = folder = f"DIV2K_{half}_LR_{track}"
    size, sha256 = DIV2K_ARCHIVES[stem]
    archive = Archive(
        name=f"{stem}.zip",
        mirrors=(f"{ETH}/cvl/DIV2K/{stem}.zip", *DIV2K_MIRRORS.get(stem, ())),
        bytes=size,
        sha256=sha256,
    )
    # The wild track has several low-resolution pictures per training picture.
    pictures = None if track == "wild" else {"train": 800, "validation": 100}[split]
    copy = Copy(archives=(archive,), folder=folder)
    return Part(split=split, track=track, scale=scale, pictures=pictures, copies=(copy,))

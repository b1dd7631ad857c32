"""The public sets of pictures: URLs, sizes, checksums, licences and conditions.

Every checksum and size here is a published one; where there is none, the first fetch records its
own. Published by torchSR (Flickr2K.tar: md5), deepinv (md5 over the pictures of huggingface.co's
archives; md5 of Urban100_HR.tar.gz), and by reproductions of the EDSR paper's tables
(benchmark.tar: sha256 and bytes).
"""

from training.data.sources.div2k import div2k
from training.data.sources.entries import Archive, Copy, Entry, Part
from training.data.sources.hosts import ETH, HUB

SNU = "https://cv.snu.ac.kr/research/EDSR"


LSDIR_SHARDS = 17


def _flickr2k() -> Entry:
    whole = Archive(
        name="Flickr2K.tar",
        mirrors=(f"{SNU}/Flickr2K.tar",),
        md5="5d3f39443d5e9489bff8963f8f26cb03",
    )
    hr_only = Archive(
        name="Flickr2K.zip",
        mirrors=(
            f"{HUB}/datasets/goodfellowliu/Flickr2K/resolve/main/Flickr2K.zip",
            f"{HUB}/datasets/yangtao9009/Flickr2K/resolve/main/Flickr2K.zip",
        ),
    )
    copies = (
        Copy(archives=(whole,), folder="Flickr2K/Flickr2K_HR"),
        Copy(
            archives=(hr_only,),
            folder="Flickr2K",
            pictures_md5="21fc3b64443fba44d6f0ad8a8c171b1e",
        ),
    )
    tracks = (
        Part(
            split="train",
            track=track,
            scale=scale,
            pictures=2650,
            copies=(Copy(archives=(whole,), folder=f"Flickr2K/Flickr2K_LR_{track}/X{scale}"),),
        )
        for track in ("bicubic", "unknown")
        for scale in (2, 3, 4)
    )
    return Entry(
        name="flickr2k",
        title="Flickr2K: photographs of 2K from Flickr",
        authors="Lim et al. 2017",
        licence="Flickr2K: research use; each photograph under its own Flickr licence",
        conditions="published for research; each photograph keeps its licence on Flickr",
        parts=(Part(split="train", pictures=2650, copies=copies), *tracks),
    )


def _lsdir() -> Entry:
    shards = tuple(_lsdir_archive(f"shard-{index:02d}.tar.gz") for index in range(LSDIR_SHARDS))
    held_out = (_lsdir_archive("val1.tar.gz"),)
    tracks = (
        Part(
            split="validation",
            track="bicubic",
            scale=scale,
            pictures=250,
            copies=(Copy(archives=held_out, folder=f"val1/X{scale}/val"),),
        )
        for scale in (2, 3, 4)
    )
    return Entry(
        name="lsdir",
        title="LSDIR: a large set of photographs for restoration",
        authors="Li et al. 2023",
        licence="LSDIR: academic research only",
        conditions="for academic research only; if ETH's server is unavailable, download the "
        "archives from huggingface.co (needs an account) and use --from FOLDER",
        parts=(
            Part(
                split="train",
                pictures=84991,
                copies=(Copy(archives=shards, folder="[0-9]*"),),
            ),
            Part(
                split="validation",
                pictures=250,
                copies=(Copy(archives=held_out, folder="val1/HR/val"),),
            ),
            *tracks,
        ),
    )


def _lsdir_archive(name: str) -> Archive:
    mirrors = (f"{ETH}/yawli/{name}", f"{HUB}/ofsoundof/LSDIR/resolve/main/{name}")
    return Archive(name=name, mirrors=mirrors)


def _benchmark(
    set_name: str,
    authors: str,
    licence: str,
    pictures: int,
    pictures_md5: str | None,
    archive_md5: str | None = None,
) -> Entry:
    """One of the usual benchmarks: in its own archive, or in the EDSR authors' archive of all."""
    archive = f"{set_name}_HR.tar.gz"
    mirror = f"{HUB}/datasets/eugenesiow/{set_name}/resolve/main/data/{archive}"
    all_sets = Archive(
        name="benchmark.tar",
        mirrors=(f"{SNU}/benchmark.tar",),
        bytes=250112000,
        sha256="80c21c333bbf6ceb5308b7243761f8284478274413a97b96f1d63e9045fd93e8",
    )
    copies = (
        Copy(
            archives=(Archive(name=archive, mirrors=(mirror,), md5=archive_md5),),
            folder=f"{set_name}_HR",
            pictures_md5=pictures_md5,
        ),
        Copy(
            archives=(all_sets,),
            folder=f"benchmark/{'B100' if set_name == 'BSD100' else set_name}/HR",
        ),
    )
    return Entry(
        name=set_name.lower(),
        title=f"{set_name}: {pictures} pictures that models are compared on",
        authors=authors,
        licence=licence,
        conditions="to compare models on, never to train on",
        role="benchmark",
        parts=(Part(split="validation", pictures=pictures, copies=copies),),
    )


PUBLIC: tuple[Entry, ...] = (
    div2k(),
    _flickr2k(),
    _lsdir(),
    _benchmark(
        "Set5",
        "Bevilacqua et al. 2012",
        "no licence stated; used in research",
        5,
        "e128ede786dabb7ebeee99e5fa1ad985",
    ),
    _benchmark(
        "Set14",
        "Zeyde et al. 2010",
        "no licence stated; used in research",
        14,
        "3fce01c3dfe9760194e8a22f6bc032c5",
    ),
    _benchmark(
        "BSD100",
        "Martin et al. 2001",
        "BSDS: non-commercial research and education",
        100,
        "2288d442262c1c26343fda3b36f05b03",
    ),
    _benchmark(
        "Urban100",
        "Huang et al. 2015",
        "no licence stated; used in research",
        100,
        None,
        "65d9d84a34b72c6f7ca1e26a12df1e4c",
    ),
)

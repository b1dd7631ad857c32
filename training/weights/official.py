"""The official weights of `sharpline models pull`: URL, sha256, licence, training data.

A sha256 comes from several independent projects that pin the file; a shorter one is the prefix in
the file's name. Without one, the sha256 of the first download is trusted and recorded. Licences of
the weights and of their training pictures are as the authors state them; DIV2K, Flickr2K, OST, WED
and BSDS500 are for research, and models trained on them inherit that.
"""

from dataclasses import dataclass

GITHUB = "https://github.com"
REAL_ESRGAN = f"{GITHUB}/xinntao/Real-ESRGAN/releases/download"
SWINIR = f"{GITHUB}/JingyunLiang/SwinIR/releases/download/v0.0"
KAIR = f"{GITHUB}/cszn/KAIR/releases/download/v1.0"

_DIV2K = ("DIV2K", "academic research only")
_FLICKR2K = ("Flickr2K", "unstated (collected from Flickr, for research)")
_OST = ("OutdoorSceneTraining", "research use (as the SFTGAN authors state)")
_FFHQ = ("FFHQ", "CC-BY-NC-SA-4.0 and the pictures' own")
_WED = ("WED", "research use (Waterloo Exploration Database)")
_BSDS = ("BSDS500", "non-commercial research use")
_MANGA = ("Manga109", "academic research only")
_SCUT = ("SCUT-CTW1500", "non-commercial research use")
_UNNAMED = ("pictures that its authors do not name", "unstated")

_BSD3, _APACHE = "BSD-3-Clause", "Apache-2.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """One file of weights; `name` is the name of its bundle.

    `adversarial`: trained with a discriminator, so evaluated by perceptual metrics, not PSNR.
    """

    name: str
    url: str
    sha256: str | None
    licence: str
    trained_on: tuple[tuple[str, str], ...]
    adversarial: bool

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]


_DF2K = (_DIV2K, _FLICKR2K)
_DF2K_OST = (*_DF2K, _OST)
_DFWB = (*_DF2K, _WED, _BSDS)

PUBLISHED = (
    PublishedWeights(
        name="realesrgan_x4plus",
        url=f"{REAL_ESRGAN}/v0.1.0/RealESRGAN_x4plus.pth",
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        licence=_BSD3,
        trained_on=_DF2K_OST,
        adversarial=True,
    ),
    PublishedWeights(
        name="realesrnet_x4plus",
        url=f"{REAL_ESRGAN}/v0.1.1/RealESRNet_x4plus.pth",
        sha256=None,
        licence=_BSD3,
        trained_on=_DF2K_OST,
        adversarial=False,
    ),
    PublishedWeights(
        name="realesrgan_x2plus",
        url=f"{REAL_ESRGAN}/v0.2.1/RealESRGAN_x2plus.pth",
        sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        licence=_BSD3,
        trained_on=_DF2K_OST,
        adversarial=True,
    ),
    PublishedWeights(
        name="realesrgan_x4plus_anime_6b",
        url=f"{REAL_ESRGAN}/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
        sha256="f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        licence=_BSD3,
        trained_on=(_UNNAMED,),
        adversarial=True,
    ),
    PublishedWeights(
        name="realesr_general_x4v3",
        url=f"{REAL_ESRGAN}/v0.2.5.0/realesr-general-x4v3.pth",
        sha256="8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        licence=_BSD3,
        trained_on=(_UNNAMED,),
        adversarial=True,
    ),
    PublishedWeights(
        name="realesr_general_wdn_x4v3",
        url=f"{REAL_ESRGAN}/v0.2.5.0/realesr-general-wdn-x4v3.pth",
        sha256="1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        licence=_BSD3,
        trained_on=(_UNNAMED,),
        adversarial=True,
    ),
    PublishedWeights(
        name="realesr_animevideov3",
        url=f"{REAL_ESRGAN}/v0.2.5.0/realesr-animevideov3.pth",
        sha256="b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        licence=_BSD3,
        trained_on=(_UNNAMED,),
        adversarial=True,
    ),
    PublishedWeights(
        name="rrdb_psnr_x4",
        url=f"{KAIR}/RRDB.pth",
        sha256=None,
        licence=_APACHE,
        trained_on=_DF2K,
        adversarial=False,
    ),
    PublishedWeights(
        name="rrdb_esrgan_x4",
        url=f"{KAIR}/ESRGAN.pth",
        sha256="65fece06e1ccb48853242aa972bdf00ad07a7dd8938d2dcbdf4221b59f6372ce",
        licence=_APACHE,
        trained_on=_DF2K_OST,
        adversarial=True,
    ),
    PublishedWeights(
        name="esrgan_official_x4",
        url=f"{REAL_ESRGAN}/v0.1.1/ESRGAN_SRx4_DF2KOST_official-ff704c30.pth",
        sha256="ff704c30",
        licence=_APACHE,
        trained_on=_DF2K_OST,
        adversarial=True,
    ),
    PublishedWeights(
        name="bsrgan_x4",
        url=f"{KAIR}/BSRGAN.pth",
        sha256="5d505a0766160921e0388d76e1ddf08cb114303990f9080432bf2b1c988b1c54",
        licence=_APACHE,
        trained_on=(*_DF2K, _WED, _FFHQ),
        adversarial=True,
    ),
    PublishedWeights(
        name="swinir_classical_x2",
        url=f"{SWINIR}/001_classicalSR_DF2K_s64w8_SwinIR-M_x2.pth",
        sha256="2032ebf8f401dd3ce2fae5f3852117cb72101ec6ed8358faa64c2a3fa09ed4ac",
        licence=_APACHE,
        trained_on=_DF2K,
        adversarial=False,
    ),
    PublishedWeights(
        name="swinir_classical_x4",
        url=f"{SWINIR}/001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth",
        sha256="4e78e33f22c1aa8a773db0cf4a7381bae97c2362c717f155439ebc690cbd9215",
        licence=_APACHE,
        trained_on=_DF2K,
        adversarial=False,
    ),
    PublishedWeights(
        name="swinir_lightweight_x2",
        url=f"{SWINIR}/002_lightweightSR_DIV2K_s64w8_SwinIR-S_x2.pth",
        sha256="193b229909ca89cd8b55de9c9e7fce146ae759d59dfcd78d8feb9dd1d6fa0fd7",
        licence=_APACHE,
        trained_on=(_DIV2K,),
        adversarial=False,
    ),
    PublishedWeights(
        name="swinir_lightweight_x4",
        url=f"{SWINIR}/002_lightweightSR_DIV2K_s64w8_SwinIR-S_x4.pth",
        sha256="09fad24e32ae62722e1a055efde9921328f4137981bab0a42a4a3a806306c58e",
        licence=_APACHE,
        trained_on=(_DIV2K,),
        adversarial=False,
    ),
    PublishedWeights(
        name="swinir_real_x2",
        url=f"{SWINIR}/003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x2_GAN.pth",
        sha256="f397408977a3e07eb06afb7238d453a12ef35ebab7328a54241f307860dbe342",
        licence=_APACHE,
        trained_on=_DF2K_OST,
        adversarial=True,
    ),
    PublishedWeights(
        name="swinir_real_x4",
        url=f"{SWINIR}/003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth",
        sha256="b9afb61e65e04eb7f8aba5095d070bbe9af28df76acd0c9405aeb33b814bcfc6",
        licence=_APACHE,
        trained_on=_DF2K_OST,
        adversarial=True,
    ),
    PublishedWeights(
        name="swinir_real_large_x4",
        url=f"{SWINIR}/003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",
        sha256="99adfa91350a84c99e946c1eb3d8fce34bc28f57d807b09dc8fe40a316328c0a",
        licence=_APACHE,
        trained_on=(*_DF2K_OST, _WED, _MANGA, _FFHQ, _SCUT),
        adversarial=True,
    ),
    PublishedWeights(
        name="swinir_denoise_25",
        url=f"{SWINIR}/005_colorDN_DFWB_s128w8_SwinIR-M_noise25.pth",
        sha256=None,
        licence=_APACHE,
        trained_on=_DFWB,
        adversarial=False,
    ),
)

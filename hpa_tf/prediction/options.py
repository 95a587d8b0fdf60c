"""What a prediction is asked for; the docstrings are the command line's help."""

import dataclasses
from typing import Annotated, Literal

import tyro

from hpa_tf import files, submission
from hpa_tf.beam import LOCAL
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import MAX_PIXELS, check_full_scale, check_um_per_px
from hpa_tf.imaging.layout_options import USUAL_LAYOUT, LayoutOptions
from hpa_tf.imaging.segmentation.child_process import BY_NETWORK, ByNetwork
from hpa_tf.parts import parse_part
from hpa_tf.postprocessing import PostProcessing

Runtime = Literal["tensorflow", "onnx", "openvino", "auto"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Predict the locations of single cells, from images or from shards."""

    out: str = "predictions"
    """Folder for the results. A prediction that was stopped continues there."""
    run: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Run folder of a trained network, or starter: the network that comes with hpa_tf. Give it several times for the
    mean of several networks. Default: the newest finished run of all classes below runs/, or else the starter."""
    system: str | None = None
    """Name of a system (such as milimed_final_2) instead of runs; its networks are read from --runs."""
    adapt: str | None = None
    """Before predicting, re-estimate the network's batch statistics on the cells of these images (no labels needed) and
    write that network to this run folder, which predicts here and can be given as --run later. For images unlike
    those of the training: another microscope, cell line or stain; 100 cells or more. Adapted runs are adapted again
    only where --run names them."""
    adapt_share: float = 0.5
    """With --adapt: weight of the images' own statistics, 0 to 1; those of the training keep the rest."""
    runs: str = "runs"
    """Folder that `train.py --system` wrote: one run folder a member; with --folds one a member and fold, whose mean
    predicts."""
    images: str | None = None
    """Folder with the images {ID}_{red,green,blue,yellow}.png (or .tif, .tif.gz, .jpg), or with one TIFF file an image
    that holds all channels (OME-TIFF, ImageJ, ...)."""
    data: str | None = None
    """Data folder with shards, instead of images."""
    fold: int | None = None
    """Only this fold of the shards."""
    masks: str | None = None
    """Folder with cell masks {ID}_cellmask.png, and nucleus masks {ID}_nucleusmask.png where there are any."""
    cell_pattern: str | None = None
    """Name of a cell mask with {ID} for the image id; default: the first usual name that is there."""
    nucleus_pattern: str | None = None
    """The same for nucleus masks; default: usual names, else nuclei are found in the blue channel."""
    segmenter: Literal["classical", "small"] | ByNetwork | None = None
    """Find the cells in the images: small (the small network that comes with hpa_tf) is the default where there are no
    --masks; classical = thresholds and watersheds; hpa = HPACellSegmentator's networks in Keras, hpacellseg = the
    original package where it is installed. The masks of these two are kept in the folder `masks` of the results."""
    segmenter_weights: str | None = None
    """For small: another file of `hpa-tf make-small-segmenter`. For hpa and hpacellseg: folder of their weights, by
    default where `python -m hpa_tf.segmenting convert` puts them."""
    layout: tyro.conf.OmitArgPrefixes[LayoutOptions] = USUAL_LAYOUT
    allow_other_channels: bool = False
    """Predict although the networks were trained with other channels than --without leaves; else they must have been
    trained so."""
    um_per_px: float | None = None
    """Micrometres per pixel of the images. Default: what OME-TIFF and ImageJ files say, else 0.08."""
    full_scale: int | None = None
    """Largest count of the camera where it uses only a part of 16-bit files, such as 4095 for 12 bits: counts are
    stretched so that it becomes 65535. Default: counts stay as they are."""
    max_pixels: int = MAX_PIXELS
    """Images of more pixels (height x width) are refused before they are decoded."""
    tta: Literal["none", "2", "8", "16"] | None = None
    """Mean over views of each cell: none = as it is, 2 = with its mirror image, 8 = all flips and quarter turns, 16 =
    those at full size and shrunk to 7/8. Default: what a system says of each of its members, else none."""
    batch_size: int = 16
    """Cells a batch."""
    precision: Literal["float32", "mixed"] = "float32"
    """mixed lets TensorFlow compute in 16 bit where it can (float16 on GPUs, bfloat16 on CPUs)."""
    runtime: Runtime = "tensorflow"
    """What runs the network; auto takes the fastest that is installed where there is no GPU."""
    strategy: Literal["one", "mirrored"] = "one"
    """mirrored splits each batch over all GPUs."""
    shard: str | None = None
    """i/n: only part i (from 0) of n, chosen by the image id; `python -m hpa_tf.prediction.merge` joins the parts."""
    postprocessing: Annotated[None, tyro.conf.subcommand("usual")] | PostProcessing = None
    """Steps from probabilities to scores; the default is the system's, or team 4's Final 2."""
    overlays: bool = True
    """Write overlays/{ID}.png: outlines in the colour of each cell's first class, and its first classes."""
    top_k: int = 2
    """Classes named in each cell of an overlay."""
    report_images: int = 30
    """Images in report.html, the first ones by name; 0 = no report."""
    embeddings: bool = False
    """Write embeddings.parquet: each cell's features before the network's last layer (of the first run)."""
    anndata: bool = False
    """Write cells.h5ad for scanpy: embeddings, scores and measurements. Needs the extra [anndata]."""
    heat_maps: bool = False
    """Write heat_maps/{ID}.npz for every image: where in each cell the first network saw its most probable class."""
    csv: bool = False
    """Write cells.csv too: the same table as cells.parquet, for spreadsheets."""
    image_labels: str | None = None
    """Table (CSV: ID, Label) of what is known of whole images; heterogeneity.csv and the report then say which cells
    differ from it. It changes no score."""
    on_error: Literal["fail", "skip"] = "fail"
    """What to do with an image that cannot be used: fail, or skip and list it in failures.csv."""
    allow_failures: bool = False
    """Exit with 0 although --on-error skip left images out."""
    workers: int = 0
    """Processes that read, segment and cut; 0 = one a core."""
    runner: str = LOCAL
    """local = this machine; else the name of an Apache Beam runner (such as DirectRunner) whose workers predict 32
    images at a time. Needs the extra [beam]."""
    beam_options: tuple[str, ...] = ()
    """Command line of the Beam runner, such as --beam-options=--direct_num_workers=4."""

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the images: (i, n) of --shard."""
        return parse_part(self.shard)

    def check(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            InputError: Names the option.
        """
        if self.run and self.system:
            raise InputError("--run", f"--system {self.system} beside it", "one of them", "drop one of the two")
        if self.images is None and self.data is None:
            fix = "python predict.py --images DIR (or --data DIR for the shards that tfrecords_builder wrote)"
            raise InputError("--images", "neither --images nor --data", "a folder of images or of shards", fix)
        if self.images is not None and self.data is not None:
            raise InputError("--images", f"--data {self.data} beside it", "one of them", "drop one of the two")
        if self.um_per_px is not None:
            check_um_per_px(self.um_per_px)
        if self.tta not in (None, "none", "2", "8", "16"):  # Python, unlike the command line, takes anything
            raise InputError("--tta", repr(self.tta), "'none', '2', '8' or '16'", "correct the option")
        if not 1 <= self.max_pixels <= submission.MOST_PIXELS:
            expected = f"1 to {submission.MOST_PIXELS}, what a submission can hold"
            raise InputError("--max-pixels", str(self.max_pixels), expected, "cut larger images into parts")
        if self.full_scale is not None:
            check_full_scale(self.full_scale)
        self.layout.parse()
        self._check_effects()
        self._check_adapting()
        if self.masks and self.segmenter:
            raise InputError("--masks", "--segmenter beside it", "one of them", "drop one of the two")
        self._check_weights()
        if self.beam_options and self.runner == LOCAL:
            raise InputError("--beam-options", "no --runner", "the name of a Beam runner", "--runner DirectRunner")
        if self.runner != LOCAL and self.strategy != "one":
            fix = "drop one of the two"
            raise InputError("--strategy", f"{self.strategy} with --runner {self.runner}", "one", fix)
        if self.fold is not None and self.data is None:
            raise InputError("--fold", "no --data", "a data folder", "only shards have folds")
        for name, least in (("batch_size", 1), ("top_k", 0), ("report_images", 0), ("workers", 0)):
            if getattr(self, name) < least:
                option = "--" + name.replace("_", "-")
                raise InputError(option, str(getattr(self, name)), f"a number >= {least}", "correct the option")
        _ = self.part

    def _check_weights(self) -> None:
        """Refuse weights of a segmenter that has none.

        Raises:
            InputError: Names what stands beside them.
        """
        if self.segmenter_weights is None:
            return
        if self.masks:
            raise InputError("--segmenter-weights", "--masks beside it", "one of them", "drop one of the two")
        if self.segmenter == "classical":
            expected = f"--segmenter {' or '.join(('small', *BY_NETWORK))}; small is the default"
            raise InputError("--segmenter-weights", "--segmenter classical", expected, "drop one of the two")

    def _check_adapting(self) -> None:
        """Refuse what cannot go with --adapt.

        Raises:
            InputError: Names the option.
        """
        if not 0 <= self.adapt_share <= 1:
            raise InputError("--adapt-share", f"{self.adapt_share:g}", "a share from 0 to 1", "correct the option")
        if self.adapt is None:
            return
        if files.is_remote(self.adapt):
            fix = "adapt into a local folder and copy it there: --run reads it from there"
            raise InputError("--adapt", self.adapt, "a folder on this machine", fix)
        if self.system or len(self.run) > 1:
            found = f"--system {self.system}" if self.system else f"{len(self.run)} runs"
            raise InputError("--adapt", found, "one --run", "adapt one run at a time, then predict with all of them")
        for option, given in (("--shard", self.shard is not None), ("--runner", self.runner != LOCAL)):
            if given:
                fix = "adapt without it, then give the adapted folder as --run"
                raise InputError("--adapt", f"{option} beside it", "all images on this machine", fix)

    def _check_effects(self) -> None:
        """Refuse options that would have no effect beside the others.

        Raises:
            InputError: Names the option and what it needs.
        """
        asked = vars(self) | vars(self.layout)
        pictures = self.overlays or self.report_images > 0
        needs = {
            "images": (  # shards hold their own cells
                self.images is not None,
                *(("masks", None), ("segmenter", None), ("cell_pattern", None), ("nucleus_pattern", None)),
                *(("um_per_px", None), ("max_pixels", MAX_PIXELS), ("full_scale", None), ("pattern", None)),
                *(("channels", ()), ("without", None), ("project", None), ("segmenter_weights", None)),
            ),
            "masks": (self.masks is not None, ("cell_pattern", None), ("nucleus_pattern", None)),
            "adapt": (self.adapt is not None, ("adapt_share", 0.5)),
            "system": (self.system is not None, ("runs", "runs")),
            "overlays or --report-images": (pictures, ("top_k", 2)),
            "on-error skip": (self.on_error == "skip", ("allow_failures", False)),
        }
        for what, (given, *fields) in needs.items():
            for name, default in fields:
                if not given and asked[name] != default:
                    option = "--" + name.replace("_", "-")
                    raise InputError(option, f"no --{what}", f"--{what}, else it has no effect", f"leave {option} out")

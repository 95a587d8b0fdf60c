"""How the images lie in files: the options that the commands of evaluation share with `predict.py`."""

from dataclasses import dataclass

from hpa_tf.imaging.layout import Layout, Project, parse_layout


@dataclass(frozen=True)
class Reading:
    """Options as of `predict.py`; docs/data.md has examples."""

    pattern: str | None = None
    """Names of the images' files where they are others: {ID} for the image id, {channel} for the channel (without it, a
    file holds all channels), * for any text."""
    channels: tuple[str, ...] = ()
    """What the channels are called in file names or inside the files, or their numbers there (from 1), where no name
    says it: microtubules=ch01 protein=ch00 nucleus=ch02 er=ch03."""
    without: str | None = None
    """Channels that there are not: yellow, red, or red,yellow; they are black."""
    project: Project | None = None
    """What becomes of several planes in depth or time: max = the brightest of each pixel. Default: they are refused."""

    @property
    def layout(self) -> Layout:
        """How the channels lie in files.

        Raises:
            InputError: Names the option.
        """
        return parse_layout(self.pattern, self.channels, self.without, self.project)


USUAL = Reading()
"""Files named `{ID}_{channel}`, or a file an image whose channels have known names."""

"""Which requests an endpoint keeps, and without what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from luthier.config.personal_data import PersonalDataConfig
from luthier.pii import Way


class CaptureConfig(PersonalDataConfig):
    """A sample of requests and answers, kept without the personal data that is found in them, to see how what is asked
    drifts from what was trained."""

    path: str | None = None
    """Directory, readable by its owner alone, made if it is not there. None: nothing is kept."""

    sample: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    """Share of the requests, chosen by the request's id: the same ids are always chosen."""

    redact: Way = "mask"
    """What stands in the place of what is found: ``mask`` ``<EMAIL>``; ``hash`` ``<EMAIL:3f2a9c01b7de>``, the same for the
    same value; ``drop`` nothing."""

    hash_key_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    """Environment variable, where the ingress runs, that holds the key of the digests of ``hash``; endpoints with one key
    write the same digests. None: a random key, kept beside the files."""

    max_file_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Size at which a new file is begun."""

    max_files: Annotated[int, Field(ge=1)] = 8
    """Files that are kept; the oldest are deleted."""

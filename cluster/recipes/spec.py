"""The cluster that recipes describe: said once, whatever starts it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from luthier import __version__
from luthier.config.base import Config

Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,40}[a-z0-9])?$")]
Path = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]*$")]
Plain = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/@~-]+$")]
"""Text that needs no quotes, in YAML or in a shell."""


class Head(Config):
    """The node that coordinates; it computes nothing."""

    cpus: Annotated[int, Field(ge=1)] = 8
    """CPU cores."""

    memory_gib: Annotated[int, Field(ge=2)] = 32
    """Main memory."""


class Worker(Config):
    """Each of the nodes that compute."""

    cpus: Annotated[int, Field(ge=1)] = 96
    """CPU cores."""

    memory_gib: Annotated[int, Field(ge=2)] = 768
    """Main memory."""

    gpus: Annotated[int, Field(ge=0)] = 8
    """GPUs."""

    gpu_kind: Plain = "H100"
    """Ray's name of the kind, which a run may ask for."""

    shm_gib: Annotated[int, Field(ge=1)] = 128
    """Shared memory: Ray's object store and NCCL's buffers lie there."""


class Shared(Config):
    """Storage that every node sees: configs, data, runs, the registry and the models' cache."""

    mount: Path = "/shared"
    """Where it is mounted."""

    export: Plain = "nfs.example.com:/luthier"
    """NFS export, for machines."""

    claim: Name = "luthier-shared"
    """PersistentVolumeClaim (ReadWriteMany), for Kubernetes."""


class Aws(Config):
    """Amazon EC2."""

    region: Plain = "us-east-1"
    """Region."""

    availability_zones: Annotated[tuple[Plain, ...], Field(min_length=1)] = ("us-east-1a",)
    """Zones, the first preferred; nodes of one run should lie in one."""

    head_instance: Plain = "m7i.2xlarge"
    """Instance type of the head."""

    worker_instance: Plain = "p5.48xlarge"
    """Instance type of the workers."""

    image_id: Plain = "ami-00000000000000000"
    """Machine image with Docker and, for GPUs, NVIDIA's driver and container toolkit: a Deep Learning Base image."""


class Gcp(Config):
    """Google Compute Engine."""

    project_id: Plain = "my-project"
    """Project."""

    region: Plain = "us-central1"
    """Region."""

    zone: Plain = "us-central1-a"
    """Zone."""

    head_machine: Plain = "n2-standard-8"
    """Machine type of the head."""

    worker_machine: Plain = "a3-highgpu-8g"
    """Machine type of the workers."""

    source_image: Plain = "projects/ml-images/global/images/family/common-cu128-ubuntu-2204-nvidia-570"
    """Image with Docker and, for GPUs, NVIDIA's driver and container toolkit."""


class OnPrem(Config):
    """Machines of one's own."""

    head_ip: Plain = "10.0.0.1"
    """Address of the head."""

    worker_ips: tuple[Plain, ...] = ("10.0.0.2", "10.0.0.3")
    """Addresses of the workers."""

    ssh_user: Plain = "ubuntu"
    """Who may log in on each, and may use Docker and sudo."""

    ssh_private_key: Plain = "~/.ssh/id_ed25519"
    """File of the key, on the machine that runs ``ray up``."""


class Slurm(Config):
    """A Slurm batch job."""

    partition: Plain = "gpu"
    """Partition."""

    num_nodes: Annotated[int, Field(ge=1)] = 2
    """Nodes, the head's included, which computes here."""

    time_limit: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] = "24:00:00"
    """Longest run."""

    environment: Path = "/shared/venv"
    """Virtual environment with luthier, on storage that every node sees."""


class Recipe(Config):
    """A cluster, and what runs on it."""

    name: Name = "luthier"
    """Name of the cluster."""

    namespace: Name = "luthier"
    """Kubernetes namespace."""

    image: Plain = f"luthier:{__version__}"
    """Container image, as the ``container`` recipe builds it and a registry serves it."""

    config: Path = "/shared/run.yaml"
    """YAML of the run, on the shared storage."""

    models: tuple[Plain, ...] = ()
    """Registered models that an endpoint serves. Empty: the config's own, at its alias."""

    serve_port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the endpoint."""

    token_secret: Name = "luthier-ray-token"
    """Kubernetes Secret with Ray's token, under ``auth_token``."""

    api_key_secret: Name = "luthier-api-key"
    """Kubernetes Secret with the endpoint's key, under ``api_key``."""

    head: Head = Head()
    """The head."""

    worker: Worker = Worker()
    """Each worker."""

    min_workers: Annotated[int, Field(ge=0)] = 0
    """Workers that stay when nothing runs."""

    max_workers: Annotated[int, Field(ge=1)] = 8
    """Most workers at a time."""

    idle_timeout_s: Annotated[int, Field(ge=60)] = 600
    """For how long a worker may be idle."""

    network_interface: Plain = "eth0"
    """Interface by which nodes of a run speak to each other."""

    gcs_gib: Annotated[int, Field(ge=1)] = 10
    """Volume of the head's state, for Kubernetes."""

    shared: Shared = Shared()
    """Storage that every node sees."""

    aws: Aws = Aws()
    """For ``aws``."""

    gcp: Gcp = Gcp()
    """For ``gcp``."""

    onprem: OnPrem = OnPrem()
    """For ``onprem``."""

    slurm: Slurm = Slurm()
    """For ``slurm``."""

    @model_validator(mode="after")
    def _bounded(self) -> Recipe:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers={self.min_workers} must not be more than max_workers={self.max_workers}")
        if not self.config.startswith(f"{self.shared.mount}/"):
            raise ValueError(f"config={self.config!r} must lie below shared.mount={self.shared.mount!r}")
        return self

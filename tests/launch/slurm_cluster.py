"""A Slurm cluster of two nodes on this machine: own key, ports and folders; every daemon ends by its process id.

The nodes are named by addresses of the loopback network, because jax reaches process 0 by the name of its node.
"""

import contextlib
import dataclasses
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'scontrol', 'squeue', 'scancel')
NODES = ('127.0.0.1', '127.0.0.2')
# How long a requeued job waits before it starts again: as long as a permission to start a step is valid.
_EXPIRES = 10

_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={expires}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
KillOnBadExit=1
SchedulerParameters=sched_interval=1
"""


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if _which(name) is None]


@dataclasses.dataclass(frozen=True)
class SlurmCluster:
    """Commands on the running cluster."""

    folder: Path

    def call(self, *command: str, **variables: str) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, 'SLURM_CONF': str(self.folder / 'slurm.conf'), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr + self.logs()
        return done.stdout

    def submit(self, *arguments: str, **variables: str) -> str:
        """Submits a job and returns its number."""
        return self.call('sbatch', '--parsable', *arguments, **variables).strip()

    def show(self, job: str) -> list[dict[str, str]]:
        """What the controller knows of a job: one dict for each task of an array."""
        lines = self.call('scontrol', '--oneliner', 'show', 'job', job).splitlines()
        return [dict(word.split('=', 1) for word in line.split() if '=' in word) for line in lines if line]

    def wait(self, job: str, seconds: float = 120) -> list[dict[str, str]]:
        """Waits until a job, or each task of an array, has ended for good."""

        def ended() -> bool:
            return all(
                task['JobState'] not in ('PENDING', 'RUNNING', 'COMPLETING', 'CONFIGURING') for task in self.show(job)
            )

        wait_until(ended, seconds, lambda: f'{self.show(job)}\n{self.logs()}')
        return self.show(job)

    def logs(self) -> str:
        paths = sorted(self.folder.glob('*.log'))
        return '\n'.join(f'--- {path.name}\n{path.read_text(errors="replace")[-2000:]}' for path in paths)


def wait_until(condition: Callable[[], bool], seconds: float, describe: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.1)


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Starts the cluster in an empty folder and ends it, its jobs first."""
    folder.chmod(0o755)
    key = folder / 'munge.key'
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    (folder / 'state').mkdir()
    ports = _free_ports(1 + len(NODES))
    host = socket.gethostname()
    config = _CONFIG.format(
        folder=folder, host=host, user=getpass.getuser(), controller_port=ports[0], expires=_EXPIRES
    )
    for node, port in zip(NODES, ports[1:], strict=True):
        # More processors than the machine may have: the jobs' processes share them.
        config += f'NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2\n'
    config += 'PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE\n'
    (folder / 'slurm.conf').write_text(config)

    cluster = SlurmCluster(folder)
    with contextlib.ExitStack() as stack:
        munge = {name: folder / f'munge.{name}' for name in ('socket', 'pid', 'seed', 'log')}
        _daemon(
            stack,
            folder,
            'munged',
            *('--foreground', '--force', f'--key-file={key}', f'--socket={munge["socket"]}'),
            *(f'--pid-file={munge["pid"]}', f'--seed-file={munge["seed"]}', f'--log-file={munge["log"]}'),
        )
        wait_until(munge['socket'].exists, 30, cluster.logs)
        _daemon(stack, folder, 'slurmctld', '-D')
        for node in NODES:
            _daemon(stack, folder, 'slurmd', '-D', '-N', node)
        wait_until(lambda: _idle(cluster), 60, cluster.logs)
        stack.callback(_end_jobs, cluster)
        yield cluster


def _daemon(stack: contextlib.ExitStack, folder: Path, name: str, *arguments: str) -> None:
    with open(folder / f'{name}-output.log', 'a', encoding='utf-8') as log:
        process = subprocess.Popen(
            [_which(name) or name, *arguments],
            env={**os.environ, 'SLURM_CONF': str(folder / 'slurm.conf')},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    stack.callback(_end, process)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_jobs(cluster: SlurmCluster) -> None:
    """The processes of jobs are children of no daemon: they would outlive the cluster."""
    cluster.call('scancel', f'--user={getpass.getuser()}')
    wait_until(lambda: not cluster.call('squeue', '--noheader').strip(), 60, cluster.logs)


def _idle(cluster: SlurmCluster) -> bool:
    done = subprocess.run(
        ['sinfo', '--noheader', '--states=idle', '--format=%D'],
        env={**os.environ, 'SLURM_CONF': str(cluster.folder / 'slurm.conf')},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() == str(len(NODES))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(('127.0.0.1', 0))
        return [probe.getsockname()[1] for probe in sockets]


def _which(name: str) -> str | None:
    """Daemons are in folders that are not on everybody's path."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin', '/sbin']))

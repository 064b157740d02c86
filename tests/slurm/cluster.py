"""A SLURM of two nodes on this machine: munged, slurmctld and two slurmd, bound to the loopback."""
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")
APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SrunPortRange={first}-{last}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
InactiveLimit=0
KillWait=2
MinJobAge=300
OverTimeLimit=0
UnkillableStepTimeout=10
SlurmctldTimeout=10
SlurmdTimeout=10
NodeName=n[0-1] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{node}-{other}] CPUs=1 RealMemory=16000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes=n[0-1] Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n[0-1] MaxTime=60 State=UP PriorityTier=2
"""


def there() -> bool:
    "Tell whether SLURM is installed, and whether we may start nodes with processes of their own."
    if os.geteuid() or not all(map(shutil.which, PROGRAMS)): return False
    return subprocess.run([*APART, "true"], capture_output=True).returncode == 0


def free_ports(count: int) -> int: # the first of them
    "Find ports in a row that nobody listens on."
    for first in range(21000 + os.getpid() % 5000, 60000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as one: one.bind(("127.0.0.1", port))
            return first
        except OSError: continue
    raise RuntimeError("no ports are free")


def listens(port: int) -> bool:
    with socket.socket() as one: return one.connect_ex(("127.0.0.1", port)) == 0


class Cluster:
    "The daemons, and how one of them is lost and comes back."
    def __init__(self):
        # munge wants a folder that everybody may pass, and pytest's is closed to others
        self.folder = folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.at_work, self.hidden = {}, set()
        for name in ("state", "spool/n0", "spool/n1"): (folder / name).mkdir(parents=True)
        os.chmod(folder, 0o755)
        first = free_ports(60)
        self.configuration = folder / "slurm.conf"
        self.text = CONFIGURATION.format(
            folder=folder, controller=first, node=first + 1, other=first + 2, first=first + 3,
            last=first + 59)
        self.ports = {"n0": first + 1, "n1": first + 2}
        self.configuration.write_text(self.text)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        os.environ["SLURM_CONF"] = str(self.configuration)
        try: self.begin()
        except BaseException:
            self.stop()
            raise

    def begin(self):
        "Start all daemons."
        folder = self.folder
        files = [f"--{what}-file={folder}/munge.{what}" for what in ("key", "pid", "log", "seed")]
        self.start("munged", "--foreground", "--num-threads=1", f"--socket={folder}/munge.sock", *files)
        self.wait_for((folder / "munge.sock").exists)
        self.start("slurmctld", "-D", "-c", "-f", str(self.configuration))
        for node in ("n0", "n1"): self.start_node(node)
        self.wait_for(lambda: self.idle() == 2)

    def start(self, *words: str, name: str = ""):
        with open(self.folder / f"{name or words[0]}.out", "a") as output:
            self.at_work[name or words[0]] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)

    def start_node(self, node: str, before: str = "true"):
        "Start a node, whose processes are its own."
        daemon = f"{before} && exec slurmd -D -f {self.configuration} -N {node}"
        self.start(*APART, "sh", "-c", daemon, name=node)
        self.wait_for(lambda: listens(self.ports[node]))

    def idle(self) -> int:
        told = self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%t", check=False)
        return told.split().count("idle")

    def ask(self, *words: str, check: bool = True) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=check).stdout

    def wait_for(self, so):
        "Ask the daemons again and again: they have no event to wait for."
        for _ in range(600):
            if so(): return
            dead = [name for name, process in self.at_work.items() if process.poll()]
            if dead: raise RuntimeError((self.folder / f"{dead[0]}.out").read_text()[-2000:])
            time.sleep(.2)
        raise RuntimeError(self.ask("sinfo", check=False) + self.ask("squeue", check=False))

    def lose(self, node: str):
        "Kill a node with all that its jobs have started, at once: it is the first of its processes."
        process = self.at_work.pop(node)
        process.kill()
        process.wait()

    def stop(self):
        for name in ("n0", "n1", "slurmctld", "munged"):
            if process := self.at_work.pop(name, None):
                process.kill() if name in ("n0", "n1") else process.terminate()
                process.wait()
        os.environ.pop("SLURM_CONF", None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def hide(self, node: str, folder: Path):
        "Start a node anew that does not see a folder."
        self.lose(node)
        self.hidden.add(node)
        self.start_node(node, f"mount -t tmpfs none {shlex.quote(str(folder))}")
        self.wait_for(lambda: self.idle() == 2)

    def named(self, name: str) -> list: # ids in their order, those of ended jobs, too
        told = self.ask("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%i")
        return sorted(told.split(), key=int)

    def configure(self, text: str):
        "Give the daemons that run another configuration."
        self.configuration.write_text(text)
        self.ask("scontrol", "reconfigure")

    def occupy(self, node: str) -> str: # the job's id
        "Keep a node busy with somebody else's job."
        words = ("--parsable", "--job-name=somebodys", f"--nodelist={node}", "--wrap", "sleep 3600")
        number = self.ask("sbatch", *words).strip()
        self.wait_for(lambda: self.facts(number)["JobState"] == "RUNNING")
        return number

    def restore(self):
        "Leave nothing of a test to the next one, however it ended."
        if self.configuration.read_text() != self.text: self.configure(self.text)
        self.ask("scancel", "--user=root", check=False)
        for node in self.hidden: self.lose(node)
        self.hidden.clear()
        for node in ("n0", "n1"):
            if node not in self.at_work: self.start_node(node)
            self.ask("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.wait_for(lambda: self.idle() == 2)

    def queued(self, number: str) -> float: # seconds; 0 where it runs
        facts = self.facts(number)
        since = facts["EligibleTime"]
        if facts["JobState"] != "PENDING" or since == "Unknown": return 0
        return time.time() - time.mktime(time.strptime(since, "%Y-%m-%dT%H:%M:%S"))

    def facts(self, number: str) -> dict:
        told = self.ask("scontrol", "--oneliner", "show", "job", number)
        return dict(pair.split("=", 1) for pair in told.split() if "=" in pair)

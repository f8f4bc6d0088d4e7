#!/bin/bash
# A Slurm of one node on the loopback, for tests: slurm_node.sh start FOLDER | kill FOLDER | revive FOLDER | stop FOLDER.
#
# Needs root and the packages slurm-wlm and munge. Everything lies in FOLDER; afterwards commands take
# SLURM_CONF=FOLDER/slurm.conf. `kill` ends the node with -9: its daemon and every process of its jobs; `revive` boots it.
set -eu
export PATH=$PATH:/usr/sbin SLURM_CONF=$2/slurm.conf
folder=$2

revive() {
    slurmd -N localhost
}

start() {
    mkdir -p "$folder"/{state,spool}
    dd if=/dev/urandom of="$folder/munge.key" bs=1k count=1 status=none
    chmod 600 "$folder/munge.key"
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --seed-file="$folder/munge.seed" --log-file="$folder/munged.log"
    read -r one two <<<"$(python3 -c 'import socket
a, b = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')"
    cat >"$SLURM_CONF" <<END
ClusterName=tubelet
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$one
SlurmdPort=$two
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=20
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
END
    slurmctld
    revive
    for _ in $(seq 100); do
        sinfo -h -o %T | grep -q idle && return 0
        sleep 0.2
    done
    tail "$folder"/*.log >&2
    exit 1
}

end() { # signal pid...
    for pid in "${@:2}"; do
        kill "-$1" "$pid" 2>/dev/null || true
    done
}

tree() { # pid: it and all that descend from it, so that none sees the next one die
    echo "$1"
    for child in $(ps -o pid= --ppid "$1"); do
        tree "$child"
    done
}

node() { # all processes of the node: its daemon, and what it started, whose parents may have gone
    tree "$(cat "$folder/slurmd.pid")"
    for step in $(pgrep -f "slurmstepd: \[" || true); do
        if tr '\0' '\n' <"/proc/$step/environ" 2>/dev/null | grep -qx "SLURM_CONF=$SLURM_CONF"; then
            tree "$step"
        fi
    done
}

case $1 in
start) start ;;
kill) end KILL $(node) ;;
revive) revive ;;
stop)
    end KILL $(node)
    end TERM "$(cat "$folder/slurmctld.pid")" "$(cat "$folder/munged.pid")"
    ;;
*) exit 2 ;;
esac

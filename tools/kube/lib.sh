# Shared by the scripts beside it; sourced, not run.
# Settings (environment):
#   KUBE_HOME   where everything that is not a source file lives   (default ${XDG_CACHE_HOME:-~/.cache}/atoll/kube)
#   KUBE_NAME   prefix of namespaces, links and cgroups            (default kube; at most 6 letters)
#   KUBE_NET    first two numbers of a free /16                    (default 10.123)
#   KUBE_NODES  how many real nodes `up` starts, beside those that this home already has (default 1; 0 = none)
#   KUBE_BIN    the kube binary, if you have one                   (default $KUBE_HOME/bin/kube)
#   KUBE_EXTRAS the kube-extras binary, if you have one            (default $KUBE_HOME/bin/kube-extras)
#   KUBE_GO     the Go to build them with                         (default go)
#   KUBE_WITH_EXTRAS  0 = neither cluster DNS nor metrics          (default 1)
#   KUBE_FAST_FAIL    1 = a dead node is noticed in 8 s and its pods are evicted 5 s later, where Kubernetes' own
#                     defaults take 40 to 50 s and 300 s           (default 0)
#   KUBE_PROXY_MODE iptables | nftables                            (default iptables)
#   KUBE_APISERVER_ARGS, KUBE_CM_ARGS, KUBE_SCHEDULER_ARGS, KUBE_KUBELET_ARGS   extra flags
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KUBE_HOME=${KUBE_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/atoll/kube}
mkdir -p "$KUBE_HOME"
KUBE_HOME=$(cd "$KUBE_HOME" && pwd)
# Settings of the last up hold for the other scripts, unless the environment says otherwise.
[ -f "$KUBE_HOME/settings" ] && . "$KUBE_HOME/settings"
KUBE_NAME=${KUBE_NAME:-kube}
KUBE_NET=${KUBE_NET:-10.123}
KUBE_NODES=${KUBE_NODES:-1}
KUBE_PROXY_MODE=${KUBE_PROXY_MODE:-iptables}
KUBE_BIN=${KUBE_BIN:-$KUBE_HOME/bin/kube}
KUBE_EXTRAS=${KUBE_EXTRAS:-$KUBE_HOME/bin/kube-extras}
KUBE_GO=${KUBE_GO:-go}
KUBE_WITH_EXTRAS=${KUBE_WITH_EXTRAS:-1}
KUBE_FAST_FAIL=${KUBE_FAST_FAIL:-0}
export KUBECONFIG=$KUBE_HOME/kubeconfig
pki=$KUBE_HOME/pki
logs=$KUBE_HOME/log
pids=$KUBE_HOME/pid
cp_ip=$KUBE_NET.0.1
host_ip=$KUBE_NET.0.254
service_cidr=$KUBE_NET.64.0/20
service_ip=$KUBE_NET.64.1
dns_ip=$KUBE_NET.64.10
pod_cidr=$KUBE_NET.128.0/17
server=https://$cp_ip:6443
cp_ns=$KUBE_NAME-cp
node_ip() { echo "$KUBE_NET.0.$((10 + $1))"; }
pod_subnet() { echo "$KUBE_NET.$((128 + $1)).0/24"; }

command -v kubectl >/dev/null || PATH=$PATH:$KUBE_HOME/bin # up links one there
say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
die() { say "$*"; exit 1; }

# A pid counts only while the process that was started still has it.
started() { awk '{sub(/.*\) /, ""); print $20}' "/proc/$1/stat" 2>/dev/null; }
alive() { # name
	local pid start
	read -r pid start 2>/dev/null <"$pids/$1" || return 1
	[ -n "$start" ] && [ "$(started "$pid")" = "$start" ] && ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null
}
pid_of() { cut -d' ' -f1 "$pids/$1"; }
launch() { # name command...: detached, logged, pid recorded
	local name=$1; shift
	alive "$name" && return 0
	setsid "$@" >>"$logs/$name.log" 2>&1 </dev/null &
	local pid=$!
	echo "$pid $(started $pid)" >"$pids/$name"
	disown $pid
}
stop() { # name [signal]
	local name=$1 pid i
	if alive "$name"; then
		pid=$(pid_of "$name")
		kill "-${2:-TERM}" "$pid" 2>/dev/null
		for i in $(seq 100); do alive "$name" || break; sleep 0.1; done
		alive "$name" && { kill -KILL "$pid"; sleep 0.3; }
	fi
	rm -f "$pids/$name"
}
wait_for() { # seconds what command...
	local n=$1 what=$2; shift 2
	local end=$(($(date +%s) + n))
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt $end ] || { say "gave up on $what after $n s; see $logs"; return 1; }
		sleep 0.3
	done
}
in_cp() { nsenter --net=/run/netns/$cp_ns -- "$@"; }
known_nodes() { ls -d "$KUBE_HOME"/node[0-9]* 2>/dev/null | sed 's/.*node//'; }
nodes_up() { local f; for f in "$pids"/node*; do [ -e "$f" ] && alive "${f##*/}" && echo "${f##*/node}"; done; }

import() { # node file: into a node's containerd, unless the same file went there before
	local mark=$KUBE_HOME/node$1/images/${2##*/}
	[ -f "$mark" ] && [ ! "$2" -nt "$mark" ] && return 0
	ctr -a "$KUBE_HOME/node$1/containerd.sock" -n k8s.io image import "$2" || return 1
	mkdir -p "${mark%/*}" && touch -r "$2" "$mark"
}
node_ready() { # ready, and heard of since it was started
	local renewed
	renewed=$(kubectl -n kube-node-lease get lease "node$1" -o jsonpath='{.spec.renewTime}') || return 1
	[ "$(date -d "$renewed" +%s)" -ge "$(stat -c %Y "$pids/node$1")" ] || return 1
	kubectl wait --for=condition=Ready "node/node$1" --timeout=2s
}

netns() { # create a namespace
	[ -e "/run/netns/$1" ] || ip netns add "$1"
	ip -n "$1" link set lo up
}
cable() { # ns address: a veth from the bridge in the control plane's namespace; ns "" is the host
	local ns=$1 address=$2 far=$3
	ip -n $cp_ns link show "$far" >/dev/null 2>&1 && return 0
	ip -n $cp_ns link add "$far" type veth peer name "${far}-tmp"
	if [ -n "$ns" ]; then
		ip -n $cp_ns link set "$far-tmp" netns "$ns" name eth0
		ip -n "$ns" address add "$address" dev eth0
		ip -n "$ns" link set eth0 up
	else
		ip -n $cp_ns link set "$far-tmp" netns 1 name "$KUBE_NAME-host"
		ip address add "$address" dev "$KUBE_NAME-host"
		ip link set "$KUBE_NAME-host" up
	fi
	ip -n $cp_ns link set "$far" master br0 up
}

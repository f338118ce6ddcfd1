# What ./dev k8s does; part of ./dev, which has the functions and variables that it uses.
# shellcheck shell=bash disable=SC2154

# Builds kustomize where nothing is there that renders deploy/ (tools/k8s/render.py).
k8s_kustomize() {
  local go
  ATOLL_BUILD=$BUILD "$PYTHON" -c 'import sys; sys.path.insert(0, "tools/k8s"); import render; render.find_renderer()' \
    2>/dev/null || install_go_tools "$KUSTOMIZE_MODULE"
}

k8s_lint() {
  local go
  install_packages
  k8s_kustomize
  install_go_tools "${K8S_LINT_MODULES[@]}"
  find_go
  ATOLL_BUILD=$BUILD "$PYTHON" tools/k8s/lint.py --go "$go" --tools "$BUILD/tools"
}

# The API server that KUBECONFIG names, or the one of k8s_up.
k8s_test() {
  local go kube=${KUBE_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/atoll/kube}
  find_go
  if [ -z "${KUBECONFIG:-}" ] && [ -f "$kube/kubeconfig" ]; then export KUBECONFIG=$kube/kubeconfig; fi
  PATH=$PATH:$kube/bin  # tools/kube/up puts kubectl there where the machine has none
  ATOLL_BUILD=$BUILD "$PYTHON" tools/k8s/server_test.py --go "$go"
}

# k8s_up [NODES]: a real Kubernetes on this machine (tools/kube), left up.
k8s_up() {
  local go
  find_go
  KUBE_NODES=${1:-2} KUBE_GO=$(command -v "$go") tools/kube/up
}

# k8s_image [--folders FOLDER]: OCI archives of Atoll, with and without the demo model; or the same files in folders.
k8s_image() {
  local demo folder=""
  case "${1:-}" in
    "") ;;
    --folders) folder=${2:?k8s image --folders: expected a folder} ;;
    *) fail "k8s image: unknown flag $1 (--folders)" ;;
  esac
  build_binaries
  mkdir -p "$BUILD/image"
  for demo in "" demo; do
    if [ -n "$folder" ]; then
      deploy/image/build "$BUILD" "$folder/atoll${demo:+-$demo}/" "$demo"
    else
      deploy/image/build "$BUILD" "$BUILD/image/atoll${demo:+-$demo}.tar" "$demo"
    fi
  done
}

#!/bin/sh
# GridNode in a kind cluster, from this source tree: images, chart with a database, the example, and the chart's test.
# A second run brings the cluster to the present state of the tree. `kind delete cluster --name gridnode` removes it all.
set -eu
cd "$(dirname "$0")/../.."
name=${KIND_CLUSTER:-gridnode}
context=kind-$name
for command in docker kind kubectl helm; do
  command -v "$command" > /dev/null || { echo "make kind needs $command, which is not on the PATH." >&2; exit 1; }
done
docker info > /dev/null 2>&1 || { echo "make kind needs Docker, and its daemon does not answer: start it, or see 'docker info'." >&2; exit 1; }

tag=$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' helm/gridnode/Chart.yaml)
docker build --file Dockerfile.node --tag "gridnode/node:$tag" .
docker build --file Dockerfile.operator --tag "gridnode/operator:$tag" .
kind get clusters 2> /dev/null | grep -qx "$name" || kind create cluster --name "$name" --config examples/kind/cluster.yaml
kind load docker-image --name "$name" "gridnode/node:$tag" "gridnode/operator:$tag"

helm upgrade --install gridnode helm/gridnode --kube-context "$context" --namespace gridnode-system --create-namespace \
  --values examples/kind/values.yaml
# The tag is the same as before, and so would the pods be.
kubectl --context "$context" rollout restart --namespace gridnode-system deployment/gridnode-operator deployment/gridnode-master
for what in statefulset/gridnode-database deployment/gridnode-operator deployment/gridnode-master; do
  kubectl --context "$context" rollout status --namespace gridnode-system "$what" --timeout=5m
done

kubectl --context "$context" create namespace apps --dry-run=client --output yaml | kubectl --context "$context" apply --filename -
kubectl --context "$context" apply --namespace apps --filename examples/gridnode.yaml
kubectl --context "$context" patch gn demo --namespace apps --type=merge \
  --patch '{"spec": {"exposure": {"service": {"type": "NodePort"}}}}'
kubectl --context "$context" wait gn/demo --namespace apps --for=condition=Ready --timeout=5m
# Ports that the cluster's configuration opens.
kubectl --context "$context" patch service demo --namespace apps --type=json \
  --patch '[{"op": "replace", "path": "/spec/ports/0/nodePort", "value": 30500}]'
kubectl --context "$context" patch service gridnode-master --namespace gridnode-system --type=json \
  --patch '[{"op": "replace", "path": "/spec/ports/0/nodePort", "value": 30501}]'
helm test gridnode --kube-context "$context" --namespace gridnode-system --logs --timeout 10m

kubectl --context "$context" get gn --all-namespaces
echo "Phones: http://127.0.0.1:5000. Master node: http://127.0.0.1:5001, for the first login with the token that this prints:"
echo "  kubectl --context $context get secret gridnode-master -n gridnode-system -o jsonpath='{.data.admin-token}' | base64 -d"

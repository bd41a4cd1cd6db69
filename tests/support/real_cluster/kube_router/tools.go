//go:build tools

// Package tools names the command that is built, so that go.mod and go.sum hold what it needs.
package tools

import _ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"

//go:build tools

// Package tools names kwok, which plays the kubelets; it needs older libraries than the control plane, so it is a module of its own.
package tools

import _ "sigs.k8s.io/kwok/cmd/kwok"

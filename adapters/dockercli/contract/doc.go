// Package contract certifies the adapter: its suite is in a module of its own, because
// an embedder's `go mod tidy` asks for the dependencies of the adapter's tests.
package contract

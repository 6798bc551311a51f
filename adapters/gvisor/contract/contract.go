// Package contract certifies the adapter: its suite is in a module of its own, because
// an embedder's `go mod tidy` asks for the dependencies of the adapter's tests.
package contract

// Unsupported has the cases that the adapter does not support, and why.
var Unsupported = map[string]string{
	"BM-15":  "builders take their DNS servers from their own settings",
	"CF-12":  "gVisor has a network stack of its own",
	"RT-117": "the engine closes stdin together with the attachment",
}

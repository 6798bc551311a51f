// Package contract certifies the adapter: its suite is in a module of its own, because
// an embedder's `go mod tidy` asks for the dependencies of the adapter's tests.
package contract

// Unsupported has the cases that the adapter does not support with Docker Engine, and why.
var Unsupported = map[string]string{
	"BM-15":  "builders take their DNS servers from their own settings",
	"RT-117": "the engine closes stdin together with the attachment",
}

const noEgress = "Podman's networks cannot be closed by Moat yet"

// UnsupportedByPodman has those that it does not support with Podman.
var UnsupportedByPodman = map[string]string{
	"BM-14":  "Podman takes no link that leads out of a context",
	"BM-15":  "builders take their DNS servers from their own settings",
	"EG-01":  noEgress,
	"EG-02":  noEgress,
	"EG-03":  noEgress,
	"EG-04":  noEgress,
	"EG-05":  noEgress,
	"EG-06":  noEgress,
	"EG-07":  noEgress,
	"EG-08":  noEgress,
	"CF-34":  "Podman chooses no host port from a range",
	"NM-10":  "Podman's networks let their containers reach each other",
	"RT-117": "the engine closes stdin together with the attachment",
}

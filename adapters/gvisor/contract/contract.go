// Package contract certifies the adapter: its suite is in a module of its own, because
// an embedder's `go mod tidy` asks for the dependencies of the adapter's tests.
package contract

import "sync"

// Unsupported has the cases that the adapter does not support, and why.
var Unsupported = map[string]string{
	"BM-15":  "builders take their DNS servers from their own settings",
	"CF-12":  "gVisor has a network stack of its own",
	"RT-117": "the engine closes stdin together with the attachment",
}

// Cache is a gvisor.Cache for one process: without one, each case's runtime would start a
// container to verify the sandbox. The zero value is empty and ready to use.
type Cache struct{ values sync.Map }

// Load returns the value that was stored under key.
func (c *Cache) Load(key string) (string, bool) {
	value, ok := c.values.Load(key)
	text, _ := value.(string)
	return text, ok
}

// Store keeps a value under key.
func (c *Cache) Store(key, value string) { c.values.Store(key, value) }

// Delete forgets key.
func (c *Cache) Delete(key string) { c.values.Delete(key) }

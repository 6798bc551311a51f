package container

import "sync"

// proven spares this process a second proof of the same engine's sandbox.
var proven processCache

// processCache is a [gvisor.Cache] that lasts as long as the process.
type processCache struct {
	names sync.Map
}

func (c *processCache) Load(key string) (string, bool) {
	name, _ := c.names.Load(key)
	text, ok := name.(string)
	return text, ok
}

func (c *processCache) Store(key, name string) { c.names.Store(key, name) }

func (c *processCache) Delete(key string) { c.names.Delete(key) }

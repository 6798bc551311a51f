package container

import "sync"

// proven spares this process a second proof of the same engine's sandbox.
var proven processCache

// maxProven bounds a [processCache]: an engine has another key each time it starts.
const maxProven = 64

// processCache is a [gvisor.Cache] that lasts as long as the process.
type processCache struct {
	lock  sync.Mutex
	names map[string]string
}

func (c *processCache) Load(key string) (string, bool) {
	c.lock.Lock()
	defer c.lock.Unlock()
	name, ok := c.names[key]
	return name, ok
}

func (c *processCache) Store(key, name string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.names == nil || len(c.names) >= maxProven {
		c.names = map[string]string{} // what is lost is proven again
	}
	c.names[key] = name
}

func (c *processCache) Delete(key string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	delete(c.names, key)
}

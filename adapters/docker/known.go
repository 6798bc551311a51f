package docker

import (
	"slices"
	"sync"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/driver"
)

// phase is how far this process has brought a container that it created.
type phase int

const (
	unknown  phase = iota // not created by this process
	created               // another process may have started it
	starting              // its first exit may come before the answer to the start
	started
)

// maxKnown bounds how many containers are known. Nobody tells of one that others have
// removed, or that removed itself.
const maxKnown = 1024

// known is what need not be asked of the engine, about the containers that this
// process created. What is not known, such as other processes' containers, is asked.
type known struct {
	lock       sync.Mutex
	containers map[string]*knownContainer // by ID
	ids        map[string]string          // by name
	order      []string                   // IDs, oldest first, and some that are not known any more
	holds      driver.Holds
}

type knownContainer struct {
	name  string
	phase phase
	stdio stdio

	autoRemove bool
	visits     string // the ID of a network that is not ours, where its resolver is
	restricted *restriction
	walled     bool // a firewall was asked for

	exit *int64 // its code, once StartAttached has seen the end
}

func (k *known) add(id string, cfg core.Config, asked request) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if k.containers == nil {
		k.containers, k.ids = map[string]*knownContainer{}, map[string]string{}
	}
	k.drop(k.ids[cfg.Name]) // others have removed it: its name was free
	k.containers[id] = &knownContainer{
		name: cfg.Name, phase: created, stdio: stdioOf(asked.config), visits: asked.visits, restricted: asked.restricted,
		autoRemove: cfg.AutoRemove,
	}
	if cfg.Name != "" {
		k.ids[cfg.Name] = id
	}
	k.order = append(k.order, id)
	k.evict()
}

// evict drops the oldest containers beyond maxKnown, but no program that is held.
func (k *known) evict() {
	if len(k.order) > 2*maxKnown {
		k.order = slices.DeleteFunc(k.order, func(id string) bool { return k.containers[id] == nil })
	}
	for i := 0; len(k.containers) > maxKnown && i < len(k.order); i++ {
		if found := k.containers[k.order[i]]; found != nil && !k.holds.Holding(k.order[i]) {
			k.drop(k.order[i])
		}
	}
}

// drop forgets a container by ID.
func (k *known) drop(id string) {
	if found := k.containers[id]; found != nil {
		if k.ids[found.name] == id {
			delete(k.ids, found.name)
		}
		delete(k.containers, id)
	}
}

// correct notes what the engine has told: that a name, which may have been one of a
// container that is gone, is now that of the container id.
func (k *known) correct(name, id string) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if was, named := k.ids[name]; named && was != id {
		k.drop(was)
	}
}

// phase returns the phase of a container, by ID only: a name may be another's by now.
func (k *known) phase(id string) phase { return k.get(id).phase }

func (k *known) get(id string) knownContainer {
	k.lock.Lock()
	defer k.lock.Unlock()
	if found := k.containers[id]; found != nil {
		return *found
	}
	return knownContainer{}
}

// find returns what is known of a container, by ID or name.
func (k *known) find(id string) (found knownContainer, ok bool) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if known := k.containers[k.idOf(id)]; known != nil {
		return *known, true
	}
	return knownContainer{}, false
}

// move notes what a start of the container has come to, by ID or name.
func (k *known) move(id string, to phase) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if found := k.containers[k.idOf(id)]; found != nil {
		found.phase, found.exit = to, nil
	}
}

// wall notes that a container, by ID, is to have a firewall.
func (k *known) wall(id string) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if found := k.containers[id]; found != nil {
		found.walled = true
	}
}

// whole returns the ID of a known container, by ID or name.
func (k *known) whole(id string) string {
	k.lock.Lock()
	defer k.lock.Unlock()
	return k.idOf(id)
}

// ended notes the exit code of a container, by ID or name.
func (k *known) ended(id string, code int64) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if found := k.containers[k.idOf(id)]; found != nil {
		found.exit = &code
	}
}

// forget drops a container that is gone, by ID or name.
func (k *known) forget(id string) {
	k.lock.Lock()
	defer k.lock.Unlock()
	id = k.idOf(id)
	k.drop(id)
	k.holds.Forget(id)
}

func (k *known) idOf(id string) string {
	if named, ok := k.ids[id]; ok {
		return named
	}
	return id
}

package docker

import (
	"sync"

	"github.com/moatproject/moat/core"
)

// phase is how far this process has brought a container that it created.
type phase int

const (
	unknown  phase = iota // not created by this process
	created               // another process may have started it
	starting              // its first exit may come before the answer to the start
	started
)

// known is what need not be asked of the engine, about the containers that this
// process created. What is not known, such as other processes' containers, is asked.
type known struct {
	lock       sync.Mutex
	containers map[string]*knownContainer // by ID
	ids        map[string]string          // by name
}

type knownContainer struct {
	name  string
	phase phase
	stdio stdio
	held  bool // StartAttached has not let its program begin yet

	visits string // the ID of a network that is not ours, where its resolver is

	exit *int64 // its code, once StartAttached has seen the end
}

func (k *known) add(id string, cfg core.Config, visits string) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if k.containers == nil {
		k.containers, k.ids = map[string]*knownContainer{}, map[string]string{}
	}
	k.containers[id] = &knownContainer{name: cfg.Name, phase: created, stdio: stdioFor(cfg), visits: visits}
	if cfg.Name != "" {
		k.ids[cfg.Name] = id
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

// hold notes that the program of a container that is to be started is held, by ID or name.
func (k *known) hold(id string) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if found := k.containers[k.idOf(id)]; found != nil && found.phase != started {
		found.held = true
	}
}

// release tells whether a container's program is held, as far as is known, and notes
// that it no longer is.
func (k *known) release(id string) bool {
	k.lock.Lock()
	defer k.lock.Unlock()
	found := k.containers[k.idOf(id)]
	if found == nil {
		return true
	}
	held := found.held
	found.held = false
	return held
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
	if found := k.containers[id]; found != nil {
		delete(k.ids, found.name)
		delete(k.containers, id)
	}
}

func (k *known) idOf(id string) string {
	if named, ok := k.ids[id]; ok {
		return named
	}
	return id
}

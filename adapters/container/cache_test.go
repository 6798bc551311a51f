package container

import (
	"fmt"
	"testing"
)

func TestProcessCacheIsBounded(t *testing.T) {
	var cache processCache
	for i := range 3 * maxProven {
		key := fmt.Sprint("engine started ", i)
		cache.Store(key, "runsc")
		if name, ok := cache.Load(key); !ok || name != "runsc" {
			t.Fatalf("%s: %q, %v", key, name, ok)
		}
	}
	if len(cache.names) > maxProven {
		t.Errorf("%d names are kept", len(cache.names))
	}
	cache.Store("last", "runsc")
	cache.Delete("last")
	if _, ok := cache.Load("last"); ok {
		t.Error("a deleted name is there")
	}
}

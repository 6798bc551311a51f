package wiring

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"time"
)

// cacheLifetime is how long a verified sandbox is believed without another start.
const cacheLifetime = 24 * time.Hour

// FileCache remembers between processes what was expensive to find out, one small
// file a key. It is safe beside other processes, and losing it costs only time.
type FileCache struct {
	Dir string // created when first needed; empty: remember nothing
}

// Load returns what Store kept under key, unless it is a day old.
func (c FileCache) Load(key string) (string, bool) {
	if c.Dir == "" {
		return "", false
	}
	info, err := os.Stat(c.path(key))
	if err != nil || time.Since(info.ModTime()) > cacheLifetime {
		return "", false
	}
	value, err := os.ReadFile(c.path(key))
	return string(value), err == nil
}

// Store keeps value under key. A cache that cannot be written is no failure.
func (c FileCache) Store(key, value string) {
	if c.Dir == "" || os.MkdirAll(c.Dir, 0o700) != nil {
		return
	}
	c.dropStale()
	file, err := os.CreateTemp(c.Dir, ".new-*")
	if err != nil {
		return
	}
	_, err = file.WriteString(value)
	if closeErr := file.Close(); err != nil || closeErr != nil || os.Rename(file.Name(), c.path(key)) != nil {
		_ = os.Remove(file.Name())
	}
}

// dropStale removes what nobody believes any more: an engine has another key each time
// it starts.
func (c FileCache) dropStale() {
	entries, _ := os.ReadDir(c.Dir)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > cacheLifetime {
			_ = os.Remove(filepath.Join(c.Dir, entry.Name()))
		}
	}
}

// Delete forgets key.
func (c FileCache) Delete(key string) {
	if c.Dir != "" {
		_ = os.Remove(c.path(key))
	}
}

func (c FileCache) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(c.Dir, hex.EncodeToString(sum[:16]))
}

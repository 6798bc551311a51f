//go:build !linux

package conform

// actAsAgent does nothing: containers run Linux.
func actAsAgent() {}

//go:build !linux

package docker

// seccompOption returns "": the profile of newer engines is known on Linux only.
func seccompOption() string { return "" }

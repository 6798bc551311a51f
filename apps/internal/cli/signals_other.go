//go:build !linux

package cli

import "os"

func endingSignalsOfSystem() []os.Signal { return nil }

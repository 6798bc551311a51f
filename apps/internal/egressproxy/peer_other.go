//go:build !linux

package egressproxy

import (
	"errors"
	"net"
)

// peerUser fails: the program is for Linux.
func peerUser(net.Conn) (int, error) { return 0, errors.ErrUnsupported }

package egress

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Destination is a host and a port that a run may ask for. [ParseDestination] makes
// valid ones: Host is in lower case, of ASCII, without a trailing dot, and no address.
type Destination struct {
	Host string
	Port uint16
}

// String returns "host:port".
func (d Destination) String() string { return d.Host + ":" + strconv.Itoa(int(d.Port)) }

// ParseDestination parses "host[:port]", as it stands in a CONNECT request or in the URL
// of another one. A defaultPort of 0 makes the port necessary. All that programs may read
// in different ways is refused: control characters, percent signs, brackets, user
// information, empty labels, whatever is not ASCII, and IP addresses in any notation.
// One trailing dot is dropped.
func ParseDestination(text string, defaultPort uint16) (Destination, error) {
	host, portText, hasPort := strings.Cut(text, ":")
	if err := checkCharacters(text); err != nil {
		return Destination{}, err
	}
	port := defaultPort
	switch {
	case hasPort:
		var err error
		if port, err = parsePort(portText); err != nil {
			return Destination{}, err
		}
	case defaultPort == 0:
		return Destination{}, errors.New("there is no port")
	}
	host, err := checkHost(host)
	return Destination{host, port}, err
}

// checkCharacters refuses characters that have no place in a host and a port.
func checkCharacters(text string) error {
	nonASCII := false
	for _, r := range text {
		switch {
		case r == 0:
			return errors.New("it contains a NUL byte")
		case r < ' ' || r == 0x7f:
			return errors.New("it contains a control character")
		case r == '%':
			return errors.New("it contains a percent sign")
		case r == '[' || r == ']':
			return errors.New("it contains brackets; IP addresses are not allowed, only host names")
		case r == '@':
			return errors.New("it contains user information")
		}
		nonASCII = nonASCII || r >= 0x80
	}
	if nonASCII {
		return errors.New("it contains characters outside ASCII; write such labels in their ASCII form, which begins with xn--")
	}
	return nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16) // which takes no sign
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is not a port between 1 and 65535", text)
	}
	return uint16(port), nil
}

// checkHost returns the canonical form of a host name.
func checkHost(host string) (string, error) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "" {
		return "", errors.New("there is no host")
	}
	if len(host) > 253 {
		return "", errors.New("the host is longer than 253 characters")
	}
	if host[0] == '-' {
		return "", errors.New("no host begins with a hyphen")
	}
	last := ""
	for label := range strings.SplitSeq(host, ".") {
		switch {
		case label == "":
			return "", errors.New("the host has an empty label")
		case len(label) > 63:
			return "", errors.New("the host has a label of more than 63 characters")
		case strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
			return "", fmt.Errorf("the label %q has characters other than letters, digits, hyphens and underscores", label)
		}
		last = label
	}
	// Some resolvers read 127.1, 0x7f000001 and 2130706433 as addresses. No top-level domain is a number.
	if last[0] >= '0' && last[0] <= '9' {
		return "", errors.New("the host is an IP address or looks like one; only host names are allowed")
	}
	return host, nil
}

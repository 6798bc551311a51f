// Asks looks names up by /etc/resolv.conf, as most programs do, and prints what it
// finds, a line each: reach=HOST:PORT what a server there says, text=NAME how long the
// name's text is. serve=TEXT says that to all who connect to port 8080, for ever.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

func main() {
	for _, arg := range os.Args[1:] {
		what, about, _ := strings.Cut(arg, "=")
		found, err := map[string]func(string) (string, error){"reach": reach, "text": text, "serve": serve}[what](about)
		if failed, ok := errors.AsType[*net.DNSError](err); ok && failed.IsNotFound {
			found = "no such name"
		} else if err != nil {
			found = err.Error()
		}
		fmt.Println(found)
	}
}

func reach(address string) (string, error) {
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		return "", err
	}
	said, err := io.ReadAll(conn)
	return strings.TrimSpace(string(said)), err
}

func text(name string) (string, error) {
	texts, err := net.LookupTXT(name)
	return fmt.Sprint(len(strings.Join(texts, ""))), err
}

func serve(text string) (string, error) {
	listener, err := net.Listen("tcp4", ":8080")
	if err != nil {
		return "", err
	}
	fmt.Println("ready")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(conn, text)
		conn.Close()
	}
}

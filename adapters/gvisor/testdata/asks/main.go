// Asks looks names up by /etc/resolv.conf, as most programs do, and prints what it
// finds, a line each: reach=HOST:PORT what a server there says, text=NAME how long the
// name's text is. serve=TEXT says that to all who connect to port 8080, for ever.
// proxied=HOST:PORT is reach through the proxy of HTTP_PROXY. send=ADDRESS:PORT sends
// datagrams in all the ways that a program without capabilities has. exists=PATH tells
// whether there is such a file.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

func main() {
	for _, arg := range os.Args[1:] {
		what, about, _ := strings.Cut(arg, "=")
		found, err := map[string]func(string) (string, error){"reach": reach, "text": text, "serve": serve, "proxied": proxied, "send": send, "exists": exists}[what](about)
		if failed, ok := errors.AsType[*net.DNSError](err); ok && failed.IsNotFound {
			found = "no such name"
		} else if err != nil {
			found = err.Error()
		}
		fmt.Println(found)
	}
}

func reach(address string) (string, error) {
	conn, err := net.DialTimeout("tcp4", address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * patience))
	said, err := io.ReadAll(conn)
	return strings.TrimSpace(string(said)), err
}

// patience is for what a network drops.
const patience = time.Second

func proxied(address string) (string, error) {
	proxy, err := url.Parse(os.Getenv("HTTP_PROXY"))
	if err != nil {
		return "", err
	}
	conn, err := net.Dial("tcp4", proxy.Host)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * patience))
	password, _ := proxy.User.Password()
	credential := base64.StdEncoding.EncodeToString([]byte(proxy.User.Username() + ":" + password))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\nProxy-Authorization: Basic %s\r\n\r\n", address, credential)
	from := bufio.NewReader(conn)
	response, err := http.ReadResponse(from, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return "", err
	}
	var rest io.Reader = response.Body
	if response.StatusCode == http.StatusOK {
		rest = from
	}
	said, err := io.ReadAll(rest)
	return response.Status + ": " + strings.TrimSpace(string(said)), err
}

func send(address string) (string, error) {
	for _, device := range []string{"", "eth0"} {
		dialer := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1)
				if device != "" {
					_ = syscall.BindToDevice(int(fd), device)
					_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_DONTROUTE, 1)
				}
			})
		}}
		conn, err := dialer.ListenPacket(context.Background(), "udp4", ":0")
		if err != nil {
			continue
		}
		to, err := net.ResolveUDPAddr("udp4", address)
		if err != nil {
			return "", err
		}
		_, _ = conn.WriteTo([]byte("stolen"), to)
		conn.Close()
	}
	return "sent", nil
}

func exists(path string) (string, error) {
	_, err := os.Stat(path)
	return fmt.Sprint(err == nil), nil
}

func text(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	texts, err := net.DefaultResolver.LookupTXT(ctx, name)
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

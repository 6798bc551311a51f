package egressproxy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	proxy "github.com/moatproject/moat/adapters/egress"
	"github.com/moatproject/moat/core/egress"
)

const (
	commandTime  = 10 * time.Second
	commandBytes = 1 << 20
)

// control changes the run's rules by commands. A command is a POST request with the
// command as its path, and rules as a JSON array. The answer is the rules in force, one
// per line, or the reason why none has changed.
type control struct {
	proxy *proxy.Proxy

	mu  sync.Mutex
	run proxy.Run // as the proxy has it
}

// serve answers commands of the user uid until ctx ends.
func (c *control) serve(ctx context.Context, listener net.Listener, uid int) error {
	server := http.Server{
		Handler: c, ReadTimeout: commandTime, WriteTimeout: commandTime,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	return server.Serve(userListener{listener, uid})
}

func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var texts []string
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, commandBytes)).Decode(&texts)
	var rules []egress.Rule
	if err == nil {
		rules, err = c.change(strings.TrimPrefix(r.URL.Path, "/"), texts)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, rule := range rules {
		fmt.Fprintln(w, rule)
	}
}

// change executes a command, and returns the rules that are then in force. After an
// error they are those of before.
func (c *control) change(command string, texts []string) ([]egress.Rule, error) {
	named, err := egress.ParseRules(texts...)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	rules := c.run.Policy.Rules()
	for _, rule := range unique(named) {
		switch i := slices.Index(rules, rule); {
		case command == "allow" && i < 0:
			rules = append(rules, rule)
		case command == "deny" && i < 0:
			return nil, fmt.Errorf("rule %q is not in force", rule)
		case command == "deny":
			rules = slices.Delete(rules, i, i+1)
		}
	}
	run := c.run
	run.Policy = egress.NewPolicy(rules...)
	if err := c.proxy.SetRun(run); err != nil {
		return nil, err
	}
	c.run = run
	return rules, nil
}

// unique drops repeated rules, so that a rule is gone once it is removed.
func unique(rules []egress.Rule) (kept []egress.Rule) {
	for _, rule := range rules {
		if !slices.Contains(kept, rule) {
			kept = append(kept, rule)
		}
	}
	return kept
}

// ask has the serving process execute a command, and prints the answer.
func ask(ctx context.Context, options Options, command string, rules []string) error {
	body, err := json.Marshal(rules)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: commandTime, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", options.Socket)
			if err != nil {
				return nil, err
			}
			if err := checkUser(conn, options.UID); err != nil {
				conn.Close()
				return nil, err
			}
			return conn, nil
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://moat-proxy/"+command, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the serving process: %w", cmp.Or(errors.Unwrap(err), err)) // without the URL
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		reason, err := io.ReadAll(io.LimitReader(answer.Body, commandBytes))
		return cmp.Or(err, errors.New(strings.TrimSpace(string(reason))))
	}
	_, err = io.Copy(options.Stdout, answer.Body)
	return err
}

// userListener closes connections of other users.
type userListener struct {
	net.Listener
	uid int
}

func (l userListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || checkUser(conn, l.uid) == nil {
			return conn, err
		}
		conn.Close()
	}
}

// checkUser returns an error unless the process at the other end is of the user uid.
func checkUser(conn net.Conn, uid int) error {
	peer, err := peerUser(conn)
	if err == nil && peer != uid {
		err = fmt.Errorf("the other process is of user %d, and this one of user %d", peer, uid)
	}
	return err
}

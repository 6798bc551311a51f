package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

var update = flag.Bool("update", false, "rewrite testdata/create.golden")

const createRoute = "POST /containers/create"

// TestCreateRequest compares what is sent with testdata/create.golden: for an image
// alone, and then what each setting adds to that (+) and takes from it (-).
func TestCreateRequest(t *testing.T) {
	folder := t.TempDir()
	plain := sentFor(t, core.Config{}, folder)
	settings := map[string]core.Config{
		"name":           {Name: "a-name"},
		"command":        {Cmd: []string{"sh", "-c", "echo $HOME"}},
		"working-dir":    {WorkingDir: "/work"},
		"env":            {Env: []string{"A=1", "B= x=y "}},
		"user":           {User: "1000:1000"},
		"mounts":         {Mounts: []core.MountConfig{{Source: folder, Target: "/a"}, {Source: folder, Target: "/b", ReadOnly: true}}},
		"extra-hosts":    {ExtraHosts: []string{"db:192.0.2.1", "host:host-gateway"}},
		"network-none":   {NetworkMode: "none"},
		"network-bridge": {NetworkMode: "bridge"},
		"network-host":   {NetworkMode: "host"},
		"network-named":  {NetworkMode: "mine"},
		"port-bindings":  {PortBindings: map[int]string{3000: "127.0.0.1", 80: "0.0.0.0", 90: "::1"}},
		"ports":          {Ports: []core.PortMapping{{ContainerPort: 53, Protocol: "udp", HostPort: 5353}, {ContainerPort: 53}}},
		"ports-of-one": {Ports: []core.PortMapping{
			{ContainerPort: 80, HostPort: 8081}, {ContainerPort: 80, HostPort: 8080}, {ContainerPort: 80}, {ContainerPort: 80, HostPort: 9000, HostPortEnd: 9010},
		}},
		"ports-of-two-hosts":   {Ports: []core.PortMapping{{ContainerPort: 53, HostIP: "127.0.0.1"}, {ContainerPort: 53, HostIP: "127.0.0.2"}}},
		"cap-add":              {CapAdd: []string{"NET_ADMIN"}},
		"group-add":            {GroupAdd: []string{"999"}},
		"privileged":           {Privileged: true, CapAdd: []string{"NET_ADMIN"}, Mounts: []core.MountConfig{{Source: "/", Target: "/host"}}},
		"interactive":          {Interactive: true},
		"memory":               {MemoryMB: 512},
		"cpus":                 {CPUs: 2},
		"nano-cpus":            {NanoCPUs: 5e8},
		"dns":                  {DNS: []string{"192.0.2.53"}},
		"stop-timeout":         {StopTimeout: 3 * time.Second},
		"labels":               {Labels: map[string]string{"a": "b"}, RunID: "run", Role: core.RoleService},
		"pids-limit":           {PidsLimit: 100},
		"pids-unlimited":       {PidsLimit: -1},
		"auto-remove":          {AutoRemove: true},
		"allow-new-privileges": {AllowNewPrivileges: true},
		"moat-user":            {HasMoatUser: true},
	}
	var all strings.Builder
	all.WriteString("an image\n" + lines("  ", plain))
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		sent := sentFor(t, settings[name], folder)
		added, taken := maps.Clone(sent), maps.Clone(plain)
		maps.DeleteFunc(added, func(path, value string) bool { return plain[path] == value })
		maps.DeleteFunc(taken, func(path, value string) bool { return sent[path] == value })
		all.WriteString(name + "\n" + lines("- ", taken) + lines("+ ", added))
	}
	compareGolden(t, filepath.Join("testdata", "create.golden"), all.String())
}

// sentFor returns what is sent for a configuration: the query and each value of the
// body that is not empty, by path.
func sentFor(t *testing.T, cfg core.Config, folder string) map[string]string {
	t.Helper()
	engine := startFake(t)
	engine.on("/_ping", ping("1.44"))
	sent := map[string]string{}
	engine.on(createRoute, func(w http.ResponseWriter, r *http.Request) {
		if query := r.URL.RawQuery; query != "" {
			sent["?"] = query
		}
		var body any
		decoder := json.NewDecoder(r.Body)
		decoder.UseNumber()
		if err := decoder.Decode(&body); err != nil {
			t.Error(err)
		}
		flatten(sent, "", body, folder)
		answer(http.StatusCreated, container.CreateResponse{ID: testID})(w, r)
	})
	cfg.Image = "image"
	id, err := engine.runtime(t).CreateContainer(t.Context(), cfg)
	if err != nil || id != testID {
		t.Fatalf("CreateContainer returned %q, %v", id, err)
	}
	return sent
}

func flatten(into map[string]string, path string, value any, folder string) {
	switch value := value.(type) {
	case map[string]any:
		for key, element := range value {
			flatten(into, path+"/"+strings.ReplaceAll(key, "/", "~"), element, folder)
		}
		if strings.HasPrefix(path, "/ExposedPorts/") {
			into[path] = "{}"
		}
	case []any:
		if len(value) > 0 && !isObject(value[0]) {
			into[path] = fmt.Sprintf("%q", value)
			return
		}
		for i, element := range value {
			flatten(into, fmt.Sprintf("%s/%d", path, i), element, folder)
		}
	default:
		if !slices.Contains([]any{nil, "", json.Number("0"), false}, value) {
			into[path] = strings.ReplaceAll(fmt.Sprint(value), folder, "FOLDER")
		}
	}
}

func isObject(value any) bool {
	_, ok := value.(map[string]any)
	return ok
}

func lines(mark string, values map[string]string) string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s%s %s\n", mark, path, values[path])
	}
	return b.String()
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if got != string(want) {
		t.Errorf("sent is\n%s\nwant as in %s\n%s", got, file, want)
	}
}

func TestInvalidConfigAsksForNothing(t *testing.T) {
	engine := startFake(t)
	_, err := engine.runtime(t).CreateContainer(t.Context(), core.Config{Image: "image", User: "a b"})
	if core.FieldOf(err) != "User" || engine.pings() != 0 {
		t.Errorf("got %v after %d pings", err, engine.pings())
	}
}

func TestUnsupportedSettings(t *testing.T) {
	engine := startFake(t)
	for field, test := range map[string]struct {
		cfg core.Config
		r   *Runtime
	}{
		"AllowNewPrivileges": {core.Config{AllowNewPrivileges: true}, engine.runtime(t, sandboxedBy(&fakeSandbox{name: "runsc"}))},
	} {
		test.cfg.Image = "image"
		_, err := test.r.CreateContainer(t.Context(), test.cfg)
		failure, _ := errors.AsType[*core.Error](err)
		if !errors.Is(err, core.ErrUnsupported) || failure.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	engine.wantRequests(t)
}

const (
	createURI   = "POST /containers/create"
	pullURI     = "POST /images/create?fromImage=docker.io%2Flibrary%2Fimage&tag=latest"
	noImageText = "No such image: image:latest"
)

func TestPullPolicies(t *testing.T) {
	absent := failure(http.StatusNotFound, noImageText)
	present := answer(http.StatusCreated, container.CreateResponse{ID: testID})
	for _, test := range []struct {
		name     string
		policy   core.PullPolicy
		create   http.HandlerFunc
		pull     http.HandlerFunc
		requests []string
		class    error
	}{
		{"missing and present", core.PullMissing, present, nil, []string{createURI}, nil},
		{"missing and absent", core.PullMissing, inOrder(absent, present), nil, []string{createURI, pullURI, createURI}, nil},
		{"the default, absent", "", inOrder(absent, present), nil, []string{createURI, pullURI, createURI}, nil},
		{"never and absent", core.PullNever, absent, nil, []string{createURI}, core.ErrNotFound},
		{"always", core.PullAlways, present, nil, []string{pullURI, createURI}, nil},
		{"still absent", "", absent, nil, []string{createURI, pullURI, createURI}, core.ErrNotFound},
		{"nowhere", "", absent, failure(http.StatusNotFound, "manifest unknown"), []string{createURI, pullURI}, core.ErrNotFound},
		{"another thing is not found", "", failure(http.StatusNotFound, "no such volume"), nil, []string{createURI}, core.ErrNotFound},
		{"an error in the middle of the pull", "", absent, raw(`{"status":"Downloading"}{"errorDetail":{"message":"toomanyrequests"}}`), []string{createURI, pullURI}, core.ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := startFake(t)
			engine.on(createRoute, test.create)
			if test.pull != nil {
				engine.on("POST /images/create", test.pull)
			}
			id, err := engine.runtime(t).CreateContainer(t.Context(), core.Config{Image: "image", Pull: test.policy})
			if !errors.Is(err, test.class) || (err == nil) != (id == testID) {
				t.Errorf("CreateContainer returned %q, %v; want %v", id, err, test.class)
			}
			if err != nil && !strings.Contains(err.Error(), "image") {
				t.Errorf("%v does not name the image", err)
			}
			engine.wantRequests(t, test.requests...)
		})
	}
}

func TestPullsTellTheirProgressOneAtATime(t *testing.T) {
	engine := startFake(t)
	engine.on("POST /images/create", raw(strings.Repeat(`{"status":"Downloading","id":"layer","progressDetail":{"current":1,"total":2}}`, 100)))
	count := 0 // the race detector sees calls at once
	r := engine.runtime(t)
	ctx := optional.WithPullProgress(t.Context(), func(optional.PullProgress) { count++ })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := r.CreateContainer(ctx, core.Config{Image: "image", Pull: core.PullAlways}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if count != 800 {
		t.Errorf("the sink was called %d times", count)
	}
}

func TestUnknownNetworkIsFoundOutBeforeCreation(t *testing.T) {
	engine := startFake(t)
	engine.on("GET /networks/{name}", failure(http.StatusNotFound, "network nosuch not found"))
	_, err := engine.runtime(t).CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "nosuch"})
	failure, ok := errors.AsType[*core.Error](err)
	if !ok || !errors.Is(err, core.ErrNotFound) || failure.Object != "nosuch" {
		t.Errorf("got %v", err)
	}
	engine.wantRequests(t, "GET /networks/nosuch")
}

func TestHostNetworkHasToBeThisMachines(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Options)
		info   http.HandlerFunc
		class  error
	}{
		"native":                   {func(*Options) {}, answer(http.StatusOK, map[string]string{"OSType": "linux"}), nil},
		"in a virtual machine":     {func(*Options) {}, answer(http.StatusOK, map[string]string{"OSType": "linux", "OperatingSystem": "Docker Desktop"}), core.ErrUnsupported},
		"sandboxed":                {sandboxedBy(&fakeSandbox{name: "runsc"}), answer(http.StatusOK, map[string]string{"OSType": "linux"}), core.ErrUnsupported},
		"the engine does not tell": {func(*Options) {}, die, core.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFake(t)
			engine.on("GET /info", test.info)
			_, err := engine.runtime(t, test.change).CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "host"})
			if !errors.Is(err, test.class) {
				t.Errorf("got %v, want %v", err, test.class)
			}
			if created := slices.Contains(engine.requests(), createURI); created != (test.class == nil) {
				t.Errorf("the container was created: %t", created)
			}
		})
	}
}

// The engine goes on with a creation when its caller has given up.
func TestCreationThatIsGivenUpLeavesNothing(t *testing.T) {
	engine := startFake(t)
	held := newGate()
	engine.on(createRoute, held.then(answer(http.StatusCreated, container.CreateResponse{ID: testID})))
	r := engine.runtime(t)
	ctx, cancel := context.WithCancel(t.Context())
	creating := begin(func() (string, error) { return r.CreateContainer(ctx, core.Config{Image: "image"}) })
	await(t, held.arrived, "the creation")
	cancel()
	close(held.open)
	if id, err := creating.result(t); id != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("CreateContainer returned %q, %v", id, err)
	}
	engine.wantRequests(t, createURI, "DELETE /containers/"+testID+"?force=1&v=1")
}

// TestLateContainer creates a container after the call has returned.
func TestLateContainer(t *testing.T) {
	engine := startFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	returned, removed := make(chan struct{}), make(chan string, 1)
	engine.on(createRoute, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-returned
		answer(http.StatusCreated, container.CreateResponse{ID: testID})(w, r)
	})
	engine.on("DELETE /containers/{id}", func(w http.ResponseWriter, r *http.Request) {
		removed <- r.PathValue("id")
		status(http.StatusNoContent)(w, r)
	})
	if _, err := engine.runtime(t).CreateContainer(ctx, core.Config{Image: "image"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	close(returned)
	if id := await(t, removed, "the removal"); id != testID {
		t.Errorf("it removed %s", id)
	}
}

// TestSlowRemovalGoesOn removes a container for longer than the call may take.
func TestSlowRemovalGoesOn(t *testing.T) {
	engine := startFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	engine.on(createRoute, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		answer(http.StatusCreated, container.CreateResponse{ID: testID})(w, r)
	})
	returned, cut := make(chan struct{}), make(chan error, 1)
	engine.on("DELETE /containers/{id}", func(w http.ResponseWriter, r *http.Request) {
		<-returned
		cut <- r.Context().Err()
		status(http.StatusNoContent)(w, r)
	})
	if _, err := engine.runtime(t).CreateContainer(ctx, core.Config{Image: "image"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	close(returned)
	if err := await(t, cut, "the removal"); err != nil {
		t.Errorf("the removal ended with the call: %v", err)
	}
}

func TestCreationThatHangsEndsWithClose(t *testing.T) {
	engine := startFake(t)
	held := newGate()
	engine.on(createRoute, held.then(silence))
	r := engine.runtime(t)
	creating := begin(func() (string, error) { return r.CreateContainer(t.Context(), core.Config{Image: "image"}) })
	await(t, held.arrived, "the creation")
	r.Close()
	if id, err := creating.result(t); id != "" || !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("CreateContainer returned %q, %v", id, err)
	}
	engine.wantRequests(t, createURI)
}

func TestLimitsThatTheKernelLacksAreErrors(t *testing.T) {
	const (
		noMemory = "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
		noPids   = "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
		noSwap   = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
	)
	for _, test := range []struct {
		warning string
		cfg     core.Config
		field   string
	}{
		{noMemory, core.Config{MemoryMB: 64}, "MemoryMB"},
		{noMemory, core.Config{}, ""},
		{noPids, core.Config{PidsLimit: 100}, "PidsLimit"},
		{noPids, core.Config{}, ""},
		{noSwap, core.Config{MemoryMB: 64}, ""},
	} {
		engine := startFake(t)
		engine.on(createRoute, answer(http.StatusCreated, container.CreateResponse{ID: testID, Warnings: []string{test.warning}}))
		var logged bytes.Buffer
		r := engine.runtime(t, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
		test.cfg.Image = "image"
		_, err := r.CreateContainer(t.Context(), test.cfg)
		if !strings.Contains(logged.String(), test.warning) {
			t.Errorf("%q was not logged: %s", test.warning, logged.String())
		}
		if test.field == "" {
			if err != nil {
				t.Errorf("%q with %+v: %v", test.warning, test.cfg, err)
			}
			continue
		}
		failure, ok := errors.AsType[*core.Error](err)
		if !ok || !errors.Is(err, core.ErrUnsupported) || failure.Field != test.field || failure.Remedy == "" {
			t.Errorf("%q: %v, want %s unsupported", test.warning, err, test.field)
		}
		engine.wantRequests(t, createURI, "DELETE /containers/"+testID+"?force=1&v=1")
	}
}

func TestNameThatIsTaken(t *testing.T) {
	engine := startFake(t)
	engine.on(createRoute, failure(http.StatusConflict, `Conflict. The container name "/a-name" is already in use by container "x".`))
	_, err := engine.runtime(t).CreateContainer(t.Context(), core.Config{Image: "image", Name: "a-name"})
	if !errors.Is(err, core.ErrAlreadyExists) || errors.Is(err, core.ErrInUse) {
		t.Errorf("got %v", err)
	}
}

func TestMissingMountSource(t *testing.T) {
	engine := startFake(t)
	engine.on(createRoute, failure(http.StatusBadRequest, `invalid mount config for type "bind": bind source path does not exist: /no/such`))
	cfg := core.Config{Image: "image", Mounts: []core.MountConfig{{Source: "/no/such", Target: "/mnt"}}}
	_, err := engine.runtime(t).CreateContainer(t.Context(), cfg)
	if !errors.Is(err, core.ErrInvalidConfig) || core.FieldOf(err) != "Mounts" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/docker/docker/api/types/container"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// startFakePodman starts an engine that is Podman by its answer to a ping.
func startFakePodman(t testing.TB) *fakeEngine {
	t.Helper()
	engine := startFake(t)
	engine.on("/_ping", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(podmanHeader, "4.3.1")
		ping("1.41")(w, r)
	})
	engine.on("GET /version", answer(http.StatusOK, map[string]string{"Version": "4.3.1", "ApiVersion": "1.41"}))
	return engine
}

// bodyOf notes the content of a request before it is answered.
func bodyOf(body *[]byte, then http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*body, _ = io.ReadAll(r.Body)
		then(w, r)
	}
}

func TestTheEngineIsNamed(t *testing.T) {
	for _, test := range []struct {
		engine *fakeEngine
		want   string
	}{{startFake(t), "Docker Engine 20.10.24 (API )"}, {startFakePodman(t), "Podman 4.3.1 (API 1.41)"}} {
		description, err := test.engine.runtime(t).Describe(t.Context())
		if err != nil || description.Engine != test.want {
			t.Errorf("got %q, %v, want %q", description.Engine, err, test.want)
		}
		test.engine.wantRequests(t, "GET /version") // that it is Podman is known from the ping
		if pings := test.engine.pings(); pings != 1 {
			t.Errorf("%d pings", pings)
		}
	}
}

func TestALifeOnPodmanTakesFourRequests(t *testing.T) {
	engine := startFakePodman(t)
	var created []byte
	engine.on("POST /containers/create", bodyOf(&created, usualRoutes()["POST /containers/create"]))
	r := engine.runtime(t)
	id, err := r.CreateContainer(t.Context(), core.Config{Image: "image"})
	if err == nil {
		err = r.StartContainer(t.Context(), id)
	}
	if err == nil {
		_, err = r.WaitContainer(t.Context(), id)
	}
	if err = errors.Join(err, r.RemoveContainer(t.Context(), id)); err != nil {
		t.Fatal(err)
	}
	engine.wantRequests(t,
		"POST /containers/create",
		"POST /containers/"+testID+"/start",
		"POST /containers/"+testID+"/wait?condition=not-running&interval=20ms",
		"DELETE "+libpod+"/containers/"+testID+"?force=true&timeout=0&v=true",
	)
	var asked struct{ HostConfig container.HostConfig }
	if err := json.Unmarshal(created, &asked); err != nil || asked.HostConfig.LogConfig.Type != "k8s-file" {
		t.Errorf("the log driver is %q, %v", asked.HostConfig.LogConfig.Type, err)
	}
}

func TestPodmanTakesNoSandbox(t *testing.T) {
	engine := startFakePodman(t)
	sandbox := &fakeSandbox{name: "runsc"}
	r := engine.runtime(t, func(o *Options) { o.Sandbox = sandbox })
	_, err := r.CreateContainer(t.Context(), core.Config{Image: "image"})
	for what, err := range map[string]error{"CreateContainer": err, "Verify": r.Verify(t.Context())} {
		if !errors.Is(err, core.ErrGVisorNotAvailable) || !strings.Contains(err.Error(), "without its sandbox") {
			t.Errorf("%s: %v", what, err)
		}
	}
	engine.wantRequests(t)
}

func TestPodmanGetsTheAddressOfItsHost(t *testing.T) {
	engine := startFakePodman(t)
	engine.on("GET /networks/{name}", answer(http.StatusOK, map[string]any{"IPAM": map[string]any{"Config": []map[string]string{{"Gateway": "10.88.0.1"}}}}))
	var created []byte
	engine.on("POST /containers/create", bodyOf(&created, usualRoutes()["POST /containers/create"]))
	cfg := core.Config{Image: "image", ExtraHosts: []string{"db:192.0.2.1", "host:host-gateway"}}
	if _, err := engine.runtime(t).CreateContainer(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	var asked struct{ HostConfig container.HostConfig }
	if err := json.Unmarshal(created, &asked); err != nil || !slices.Equal(asked.HostConfig.ExtraHosts, []string{"db:192.0.2.1", "host:10.88.0.1"}) {
		t.Errorf("got %q, %v", asked.HostConfig.ExtraHosts, err)
	}
	if cfg.ExtraHosts[1] != "host:host-gateway" {
		t.Error("the caller's configuration has changed")
	}
}

func TestTheListOfPodman(t *testing.T) {
	engine := startFakePodman(t)
	engine.on("GET "+libpod+"/containers/json", raw(`[
		{"Id":"1","Names":["old"],"Image":"localhost/moat/x:1","State":"exited","Created":"2026-11-28T22:38:35.1Z","Labels":{"moat.managed":"true"}},
		{"Id":"2","Names":["new"],"Image":"localhost/moat/x:1","State":"running","Created":"2026-11-28T22:38:35.9Z","Labels":{"moat.managed":"true"},
		 "Ports":[{"host_ip":"127.0.0.1","container_port":80,"host_port":8080,"range":2,"protocol":"tcp"}]}]`))
	list, err := engine.runtime(t).ListContainers(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != "new" || list[1].Image != "moat/x:1" || list[0].Status != core.StateRunning {
		t.Fatalf("got %+v, %v", list, err)
	}
	if want := (core.PortMapping{ContainerPort: 81, Protocol: "tcp", HostIP: "127.0.0.1", HostPort: 8081}); len(list[0].Published) != 2 || list[0].Published[1] != want {
		t.Errorf("published are %+v", list[0].Published)
	}
}

func TestPodmanTakesNoRangeOfPorts(t *testing.T) {
	engine := startFakePodman(t)
	cfg := core.Config{Image: "image", Ports: []core.PortMapping{{ContainerPort: 80, HostIP: "127.0.0.1", HostPort: 8000, HostPortEnd: 8010}}}
	_, err := engine.runtime(t).CreateContainer(t.Context(), cfg)
	if !errors.Is(err, core.ErrUnsupported) || core.FieldOf(err) != "Ports" {
		t.Errorf("got %v", err)
	}
	engine.wantRequests(t)
}

func TestPodmanRefusesAMissingMount(t *testing.T) {
	engine := startFakePodman(t)
	cfg := core.Config{Image: "image", Mounts: []core.MountConfig{{Source: t.TempDir() + "/missing", Target: "/mnt"}}}
	_, err := engine.runtime(t, func(o *Options) { o.GOOS = "linux" }).CreateContainer(t.Context(), cfg)
	if core.FieldOf(err) != "Mounts" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if asked := engine.requests(); slices.ContainsFunc(asked, func(request string) bool { return !strings.HasPrefix(request, "GET ") }) {
		t.Errorf("it asked for %q", asked)
	}
}

func TestNetworksOfPodman(t *testing.T) {
	engine := startFakePodman(t)
	var body []byte
	engine.on("POST "+libpod+"/networks/create", bodyOf(&body, usualRoutes()["POST "+libpod+"/networks/create"]))
	creator := engine.runtime(t).NetworkManager().(optional.NetworkCreator)
	for internal, want := range map[bool]string{
		false: `"internal":false,"dns_enabled":true,"subnets":[{"subnet":"192.0.2.0/29"}]`,
		true:  `"internal":true,"dns_enabled":false,"subnets":[{"subnet":"192.0.2.0/29"}]`,
	} {
		id, err := creator.CreateNetworkFrom(t.Context(), optional.NetworkConfig{Name: "n", Subnet: "192.0.2.0/29", Internal: internal})
		if err != nil || id != testID {
			t.Fatal(id, err)
		}
		if !strings.Contains(string(body), want) || !strings.Contains(string(body), `"options":{"isolate":"true"}`) {
			t.Errorf("Podman was asked for %s, want %s", body, want)
		}
	}
	_, err := creator.CreateNetworkFrom(t.Context(), optional.NetworkConfig{Name: "n", Subnet: "192.0.2.0/29", Isolated: true})
	if !errors.Is(err, core.ErrUnsupported) || core.FieldOf(err) != "Isolated" {
		t.Errorf("an isolated network: %v", err)
	}

	// On an internal network the host is out of reach by IPv6 too.
	engine.on("GET /networks/{name}", answer(http.StatusOK, map[string]any{"Internal": true}))
	engine.on("POST /containers/create", bodyOf(&body, usualRoutes()["POST /containers/create"]))
	if _, err := engine.runtime(t).CreateContainer(t.Context(), core.Config{Image: "image", NetworkMode: "n"}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(body), `"Sysctls":{"net.ipv6.conf.eth0.disable_ipv6":"1"}`) {
		t.Errorf("Podman was asked for %s", body)
	}
}

func TestNetworksAreRemovedByNameOnPodman(t *testing.T) {
	engine := startFakePodman(t)
	engine.on("GET /networks/{name}", answer(http.StatusOK, map[string]string{"Name": "named", "Id": testID}))
	engine.on("DELETE /networks/{id}", failure(http.StatusInternalServerError,
		`"named" has associated containers with it. Use -f to forcibly delete containers and pods: network is being used`))
	engine.on("GET /containers/json", answer(http.StatusOK, []container.Summary{{ID: testID, Names: []string{"/user"}}}))
	err := engine.runtime(t).NetworkManager().RemoveNetwork(t.Context(), testID)
	if !errors.Is(err, core.ErrInUse) || !strings.Contains(err.Error(), "the container user") {
		t.Errorf("got %v", err)
	}
	if requests := engine.requests(); !slices.Contains(requests, "DELETE /networks/named") || slices.Contains(requests, "DELETE /networks/"+testID) {
		t.Errorf("Podman was asked for %q", requests)
	}
}

func TestImagesOfPodmanHaveTheirUsualNames(t *testing.T) {
	for name, want := range map[string]string{
		"localhost/moat/test-base:latest":     "moat/test-base:latest",
		"docker.io/moat/built:1":              "moat/built:1",
		"docker.io/library/debian:12":         "debian:12",
		"localhost/other:1":                   "localhost/other:1", // "other" may be another image
		"127.0.0.1:5000/moat/test-pull:1":     "127.0.0.1:5000/moat/test-pull:1",
		"sha256:4f2d1e0c9b8a7968574635241302": "sha256:4f2d1e0c9b8a7968574635241302",
	} {
		if got := familiarOnPodman(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	engine := startFakePodman(t)
	gone := failure(http.StatusInternalServerError, `reading image "46c3": locating image with ID "46c3": image not known`)
	engine.on("GET /images/json", inOrder(gone, answer(http.StatusOK, []map[string]any{{"Id": "sha256:1", "RepoTags": []string{"localhost/moat/x:1", "localhost/y:1"}}})))
	images, err := engine.runtime(t).ListImages(t.Context())
	if err != nil || len(images) != 1 || images[0].Tag != "moat/x:1" {
		t.Errorf("got %+v, %v", images, err)
	}
}

func TestThePathsOfPodman(t *testing.T) {
	link := optional.PathStat{Name: "text", Mode: fs.ModeSymlink | 0o777, LinkTarget: "/tmp/text"}
	if got := statOnPodman("/tmp/link", link); got.Name != "link" || got.LinkTarget != "/tmp/text" {
		t.Errorf("a link is %+v", got)
	}
	if got := statOnPodman("/tmp/text", optional.PathStat{Name: "text", LinkTarget: "/tmp/text"}); got.LinkTarget != "" {
		t.Errorf("a file is %+v", got)
	}
	engine := startFakePodman(t) // on which every path is a file
	err := engine.runtime(t).CopyTo(t.Context(), testID, "/etc/passwd", strings.NewReader(""))
	if core.FieldOf(err) != "dir" {
		t.Errorf("copying to a file: %v", err)
	}
	engine.on("HEAD /containers/{id}/archive", status(http.StatusNotFound))
	err = engine.runtime(t).CopyTo(t.Context(), testID, "/missing", strings.NewReader(""))
	if !errors.Is(err, core.ErrNotFound) {
		t.Errorf("copying to what does not exist: %v", err)
	}
	if slices.ContainsFunc(engine.requests(), func(request string) bool { return strings.HasPrefix(request, "PUT ") }) {
		t.Errorf("Podman was asked for %q", engine.requests())
	}
}

func TestPodmanTakesNoLinksOutOfAContext(t *testing.T) {
	link := func(target string) *fstest.MapFile {
		return &fstest.MapFile{Mode: fs.ModeSymlink | 0o777, Data: []byte(target)}
	}
	engine := startFakePodman(t)
	builds := engine.runtime(t, func(o *Options) { o.ClassicBuilder = true }).BuildManager()
	for target, refused := range map[string]bool{"../../etc": true, "..": true, "deep/../..": true, "/etc": false, "deep": false, "deep/../file": false} {
		err := builds.BuildImage(t.Context(), "FROM x", "moat/x:1", core.BuildOptions{Context: fstest.MapFS{"link": link(target)}})
		if errors.Is(err, core.ErrUnsupported) != refused || refused && core.FieldOf(err) != "Context" {
			t.Errorf("a link to %s: %v", target, err)
		}
	}
}

// What Podman 4.3.1 really says.
func TestClassifyPodman(t *testing.T) {
	const oci = "runc: runc create failed: unable to start container process: "
	for _, test := range []struct {
		status int
		text   string
		class  error
		field  string
	}{
		{500, oci + `exec: "nosuch": executable file not found in $PATH: OCI runtime attempted to invoke a command that was not found`, core.ErrInvalidConfig, "Cmd"},
		{500, `runc: <and> its second line": no such file or directory: OCI runtime attempted to invoke a command that was not found`, core.ErrInvalidConfig, "Cmd"},
		{500, oci + `exec: "/etc/passwd": permission denied: OCI permission denied`, core.ErrInvalidConfig, "Cmd"},
		{500, oci + `chdir to cwd ("/root") set in config.json failed: permission denied: OCI permission denied`, core.ErrInvalidConfig, "WorkingDir"},
		{500, `workdir "/etc/passwd" exists on container c335, but is not a directory`, core.ErrInvalidConfig, "WorkingDir"},
		{500, `unable to find user nobody-x: no matching entries in passwd file`, core.ErrInvalidConfig, "User"},
		{500, `looking up supplemental groups for container 0909: Unable to find group nogrp: no matching entries in group file`, core.ErrInvalidConfig, "GroupAdd"},
		{500, `container create: "CAP_NOCAP": unknown capability`, core.ErrInvalidConfig, "CapAdd"},
		{500, `container create: creating container storage: the container name "dup" is already in use by 84af. You have to remove that container to be able to reuse that name: that name is already in use`, core.ErrAlreadyExists, "Name"},
		{500, `can only kill running containers. c335 is in state created: container state improper`, core.ErrNotRunning, ""},
		{409, `can only resize created or running containers: container state improper`, core.ErrNotRunning, ""},
		{404, `no container with name or ID "nope" found: no such container`, core.ErrNotFound, ""},
		{404, `unable to find network with name or ID nope: network not found`, core.ErrNotFound, ""},
		{404, `no such image: docker.io/moat/nonexistent: image not known`, core.ErrNotFound, ""},
		{500, `subnet 10.210.2.0/26 is already used on the host or by another config`, core.ErrInUse, "Subnet"},
		{409, `network name na already used: network already exists`, core.ErrAlreadyExists, "Name"},
		{500, `"nt2" has associated containers with it. Use -f to forcibly delete containers and pods: network is being used`, core.ErrInUse, ""},
		{500, `building at STEP "BUILD ": Build error: Unknown instruction: "BUILD" &imagebuilder.Step{}`, core.ErrInvalidConfig, "Dockerfile"},
		{500, `building at STEP "ENV ": ENV requires at least one argument`, core.ErrInvalidConfig, "Dockerfile"},
		{500, `no contents in "/var/tmp/libpod_builder/build/.moat.dockerfile"`, core.ErrInvalidConfig, "Dockerfile"},
		{500, `line 2: COPY no-such-file /: building at STEP "COPY no-such-file /": checking on sources under "/var/tmp/build": copier: stat: "/no-such-file": no such file or directory`, core.ErrInvalidConfig, "ContextFiles"},
	} {
		engine := startFakePodman(t)
		engine.on("POST /containers/{id}/start", failure(test.status, test.text))
		err := engine.runtime(t).StartContainer(t.Context(), testID)
		failed, _ := errors.AsType[*core.Error](err)
		if failed == nil || failed.Class != test.class || failed.Field != test.field {
			t.Errorf("%s\nis %v in field %q, want %v in %q", test.text, failed.Class, failed.Field, test.class, test.field)
		}
	}
	said := &core.Error{}
	(&call{}).classify(said, errors.New(`building at STEP "RUN echo a name requires thought; exit 3": while running runtime: exit status 3`))
	if said.Class != nil {
		t.Errorf("a command that failed is %v", said.Class)
	}
}

func TestAContainerThatIsGoneOnPodman(t *testing.T) {
	engine := startFakePodman(t)
	r := engine.started(t)
	const gone = `container 39d4 does not exist in database: no such container`
	for name, handler := range map[string]http.HandlerFunc{
		"a status": failure(http.StatusInternalServerError, gone),
		"a field":  answer(http.StatusOK, map[string]any{"StatusCode": -1, "Error": map[string]string{"Message": gone}}),
	} {
		engine.on("POST /containers/{id}/wait", handler)
		r.known.add(testID, core.Config{}, request{config: &container.Config{}})
		r.known.move(testID, started)
		if _, err := r.WaitContainer(t.Context(), testID); !errors.Is(err, core.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheRefusalOfAnExecOnPodman(t *testing.T) {
	const lost = "Error: read unixpacket @->/proc/self/fd/14/attach: read: connection reset by peer\n"
	for said, want := range map[string]bool{
		"Err": true,
		`Error: runc: exec failed: unable to start container process: exec: "x": executable file not found` + "\n":        true,
		`Error: runc: exec failed: unable to start container process: exec: "x": executable file not found` + "\n" + lost: true,
		`Error: crun: executable file not found` + "\n":                                                                   true,
		"Error: mine\n":                        false,
		"error":                                false,
		"Error: runc: one\nand more of mine\n": false,
	} {
		if got := isExecRefusalOfPodman([]byte(said)); got != want {
			t.Errorf("%q: %t", said, got)
		}
	}
}

func TestTheLastWordsOfPodmanAreNotThePrograms(t *testing.T) {
	const lost = "Error: read unixpacket @->/proc/self/fd/12/attach: read: connection reset by peer\n"
	for _, test := range []struct {
		tty    bool
		frames [][]byte
		want   string
	}{
		{true, [][]byte{[]byte("done\r\n" + lost)}, "done\r\n"},
		{true, [][]byte{[]byte("done\r\n"), []byte(lost), []byte("more\r\n")}, "done\r\n" + lost + "more\r\n"},
		{false, [][]byte{frame(streamStdout, "done\n"), frame(streamStderr, lost)}, "done\n"},
		{false, [][]byte{frame(streamStderr, lost), frame(streamStdout, "done\n")}, lost + "done\n"},
	} {
		engine := startFakePodman(t)
		engine.on("POST /containers/{id}/attach", upgraded(func(conn io.ReadWriter) {
			for _, sent := range test.frames {
				_, _ = conn.Write(sent)
			}
		}))
		engine.on("GET /containers/{id}/json", answer(http.StatusOK, container.InspectResponse{
			ContainerJSONBase: &container.ContainerJSONBase{ID: testID, State: &container.State{Status: "running", Running: true}},
			Config:            &container.Config{Tty: test.tty},
		}))
		var output strings.Builder
		if err := engine.runtime(t).Attach(t.Context(), testID, core.AttachOptions{Stdout: &output, Stderr: &output}); err != nil {
			t.Fatal(err)
		}
		if output.String() != test.want {
			t.Errorf("got %q, want %q", output.String(), test.want)
		}
	}
}

func TestTheProofOfARefusalOnPodman(t *testing.T) {
	const said = `Error: runc: exec failed: unable to start container process: exec: "mine": executable file not found in $PATH: OCI runtime attempted to invoke a command that was not found`
	for _, test := range []struct {
		program string
		code    int
		running bool
		want    bool
	}{{"mine", 127, false, true}, {"sh", 127, false, false}, {"mine", 1, false, false}, {"mine", 0, true, false}} {
		opts := optional.ExecOptions{Cmd: []string{test.program}}
		if got := isUnstartedOnPodman(opts, container.ExecInspect{ExitCode: test.code, Running: test.running}, said); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}

// Each step is told by its number in the Dockerfile, which Podman counts in each stage.
func TestTheStepsOfPodmansBuilds(t *testing.T) {
	engine := startFakePodman(t)
	var lines strings.Builder
	for _, line := range []string{
		"[1/2] STEP 1/2: FROM a AS one", "[1/2] STEP 2/2: RUN first", "hi", "--> 6c82cae1bb0", "[2/2] STEP 1/3: FROM b", "[2/2] STEP 2/3: RUN second",
		"--> Using cache e3261f88f14f3b055b28", "--> e3261f88f14", "[2/2] STEP 3/3: LABEL x", "[2/2] COMMIT moat/x:1", "--> 3bea9774589", "Successfully tagged moat/x:1",
	} {
		fmt.Fprintf(&lines, "{\"stream\":%q}\n", line+"\n")
	}
	engine.on("POST /build", raw(lines.String()))
	var told []string
	sink := func(p core.BuildProgress) { told = append(told, fmt.Sprintf("%s %v %s", p.Name, p.Status, p.Output)) }
	builds := engine.runtime(t, func(o *Options) { o.ClassicBuilder = true }).BuildManager()
	if err := builds.BuildImage(t.Context(), "ARG v\nFROM a AS one\nRUN first\nFROM b\nRUN second\n", "moat/x:1", core.BuildOptions{Progress: sink}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"[2/5] FROM a AS one running ", "[2/5] FROM a AS one done ", "[3/5] RUN first running ", "[3/5] RUN first running hi\n", "[3/5] RUN first done ",
		"[4/5] FROM b running ", "[4/5] FROM b done ", "[5/5] RUN second running ", "[5/5] RUN second cached ",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%q, want\n%q", told, want)
	}
}

// Podman loses lines of a followed log and ends it early. The runtime reads the missing
// lines from the log itself.
func TestNothingOfALogIsLostOnPodman(t *testing.T) {
	engine := startFakePodman(t)
	lines := [][]byte{frame(streamStdout, "one\n"), frame(streamStderr, "two\n"), frame(streamStdout, "three\n"), frame(streamStdout, "end")}
	var reads atomic.Int32
	engine.on("GET /containers/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") != "" {
			logs(lines[0], lines[2])(w, r)
			return
		}
		logs(lines[:min(len(lines), int(reads.Add(1)))]...)(w, r)
	})
	r := engine.started(t)
	var stdout, stderr strings.Builder
	if err := r.StreamLogs(t.Context(), testID, optional.LogOptions{Follow: true, Stdout: &stdout, Stderr: &stderr}); err != nil {
		t.Fatal(err)
	}
	// The last reading comes after the end of the output, whatever it had by then.
	if got := int(reads.Load()); stdout.String()+stderr.String() == "" || got < 1 {
		t.Errorf("got %q and %q in %d readings", stdout.String(), stderr.String(), got)
	}
	reads.Store(int32(len(lines)))
	stdout.Reset()
	stderr.Reset()
	if err := r.StreamLogs(t.Context(), testID, optional.LogOptions{Follow: true, Stdout: &stdout, Stderr: &stderr}); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "one\nthree\nend" || stderr.String() != "two\n" {
		t.Errorf("got %q and %q", stdout.String(), stderr.String())
	}
	for tail, want := range map[int]string{1: "end/", 2: "three\nend/", 3: "three\nend/two\n", 9: "one\nthree\nend/two\n"} {
		for _, follow := range []bool{false, true} {
			stdout.Reset()
			stderr.Reset()
			if err := r.StreamLogs(t.Context(), testID, optional.LogOptions{Tail: tail, Follow: follow, Stdout: &stdout, Stderr: &stderr}); err != nil {
				t.Fatal(err)
			}
			if got := stdout.String() + "/" + stderr.String(); got != want {
				t.Errorf("the last %d lines are %q, want %q", tail, got, want)
			}
		}
	}
}

// A log that Podman empties while it is followed has lost output, and nothing else says so.
func TestALogThatPodmanEmptiesIsAnError(t *testing.T) {
	engine := startFakePodman(t)
	var reads atomic.Int32
	readTwice := make(chan struct{})
	engine.on("GET /containers/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Get("follow") != "":
			logs(frame(streamStdout, "signal"))(w, r)
			w.(http.Flusher).Flush()
			<-readTwice
		case reads.Add(1) <= 2: // a frame counts once it has been read twice
			logs(frame(streamStdout, "a long line\n"), frame(streamStdout, "another\n"))(w, r)
			if reads.Load() == 2 {
				close(readTwice)
			}
		default:
			logs(frame(streamStdout, "new\n"))(w, r)
		}
	})
	r := engine.started(t)
	var output strings.Builder
	err := r.StreamLogs(t.Context(), testID, optional.LogOptions{Follow: true, Stdout: &output})
	if !errors.Is(err, errLogRestarted) || output.String() != "a long line\nanother\n" {
		t.Errorf("got %q, %v", output.String(), err)
	}
}

// The end of any attachment closes the stdin of a container without a terminal, so
// output alone comes from the log.
func TestOutputAloneIsNotAttachedOnPodman(t *testing.T) {
	for name, test := range map[string]struct {
		config     container.Config
		autoRemove bool
		start      bool
		attached   bool
	}{
		"a running container":       {config: container.Config{OpenStdin: true}},
		"one that is to be started": {config: container.Config{OpenStdin: true}, start: true},
		"one whose log goes away":   {config: container.Config{OpenStdin: true}, start: true, autoRemove: true, attached: true},
		"one without stdin":         {config: container.Config{}, attached: true},
		"one with a terminal":       {config: container.Config{OpenStdin: true, Tty: true}, attached: true},
	} {
		t.Run(name, func(t *testing.T) {
			engine := startFakePodman(t)
			var attached atomic.Bool
			engine.on("POST /containers/{id}/attach", upgraded(func(io.ReadWriter) { attached.Store(true) }))
			engine.on("GET /containers/{id}/json", answer(http.StatusOK, container.InspectResponse{
				ContainerJSONBase: &container.ContainerJSONBase{
					ID: testID, State: &container.State{Status: "running", Running: true}, HostConfig: &container.HostConfig{AutoRemove: test.autoRemove},
				},
				Config: &test.config,
			}))
			written := [][]byte{frame(streamStdout, "before\n"), frame(streamStdout, "after\n")}
			var reads atomic.Int32
			engine.on("GET /containers/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
				logs(written[:min(len(written), int(reads.Add(1)))]...)(w, r)
			})
			r := engine.runtime(t)
			attach := r.Attach
			if test.start {
				attach = r.StartAttached
			}
			var output strings.Builder
			if err := attach(t.Context(), testID, core.AttachOptions{Stdout: &output}); err != nil {
				t.Fatal(err)
			}
			if attached.Load() != test.attached || output.String() != map[bool]string{false: "after\n"}[test.attached] {
				t.Errorf("attached: %v, got %q", attached.Load(), output.String())
			}
		})
	}
}

// TestPodmanGetsSizesTwice shows each size of a terminal to an engine that may drop the
// second of two in quick succession.
func TestPodmanGetsSizesTwice(t *testing.T) {
	t.Run("exec", func(t *testing.T) {
		engine := startFakePodman(t)
		engine.showSizes(4)
		sizes := make(chan optional.TerminalSize, 1)
		sizes <- optional.TerminalSize{Height: 50, Width: 132}
		var screen bytes.Buffer
		opts := optional.ExecOptions{Cmd: []string{"top"}, Resize: sizes}
		opts.TTY, opts.Stdout, opts.InitialHeight, opts.InitialWidth = true, &screen, 30, 90
		if _, err := engine.runtime(t).Exec(t.Context(), testID, opts); err != nil {
			t.Fatal(err)
		}
		if screen.String() != "h=30&w=90 h=30&w=90 h=50&w=132 h=50&w=132 " {
			t.Errorf("the terminal's sizes were %q", screen.String())
		}
	})
	t.Run("container", func(t *testing.T) {
		engine := startFakePodman(t)
		engine.on(inspectRoute, withTTY)
		times := 0
		engine.on("POST /containers/{id}/resize", func(w http.ResponseWriter, _ *http.Request) {
			if times++; times == 2 { // it has exited meanwhile
				failure(http.StatusConflict, "can only resize created or running containers: container state improper")(w, nil)
			}
		})
		if err := engine.runtime(t).ResizeTTY(t.Context(), testID, 50, 132); err != nil || times != 2 {
			t.Errorf("the size was sent %d times, %v", times, err)
		}
	})
}

package contracttests

import (
	"fmt"
	"reflect"

	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
)

// textRefused spoils each text of what a runtime takes. That the examples have one in
// every field, the suite's own tests check.
func textRefused(f *fixture) {
	told := optional.CapabilitiesOf(f.rt) // what they say of managers is RT-90's
	forEachSpoilt(f, completeConfig, func(cfg core.Config) error { _, err := f.tryCreate(cfg); return err })
	if execer, ok := core.As[optional.Execer](f.rt); ok {
		id := f.started(f.idle())
		forEachSpoilt(f, completeExec, func(opts optional.ExecOptions) error { _, err := execer.Exec(f.ctx, id, opts); return err })
	}
	if creator, ok := f.rt.NetworkManager().(optional.NetworkCreator); ok {
		forEachSpoilt(f, completeNetwork, func(cfg optional.NetworkConfig) error {
			id, err := creator.CreateNetworkFrom(f.ctx, cfg)
			if err == nil {
				f.joined = append(f.joined, id)
			}
			return err
		})
	}
	if manager := f.rt.SidecarManager(); told.SidecarManager && manager != nil {
		forEachSpoilt(f, completeSidecar, func(cfg core.SidecarConfig) error {
			id, err := manager.StartSidecar(f.ctx, cfg)
			if err == nil {
				f.created = append(f.created, id)
			}
			return err
		})
	}
	if manager := f.rt.ServiceManager(); told.ServiceManager && manager != nil {
		forEachSpoilt(f, completeService, func(cfg core.ServiceConfig) error {
			info, err := manager.StartService(f.ctx, cfg)
			if err == nil {
				f.created = append(f.created, info.ID)
			}
			return err
		})
	}
	if manager := f.rt.BuildManager(); told.BuildManager && manager != nil {
		tag := f.tag()
		forEachSpoilt(f, completeBuild, func(opts core.BuildOptions) error {
			return manager.BuildImage(f.ctx, f.dockerfile("RUN true"), tag, opts)
		})
	}
	if source, ok := core.As[optional.EventSource](f.rt); ok {
		forEachSpoilt(f, completeEvents, func(opts optional.EventOptions) error { _, err := source.Events(f.ctx, opts); return err })
	}
}

// Examples with a valid text in every field that has one. Nothing is made of them.
func completeConfig() core.Config {
	return core.Config{
		Name: "web", Image: "alpine", Cmd: []string{"sh"}, WorkingDir: "/work", Env: []string{"A=b"}, User: "root",
		Mounts: []core.MountConfig{{Source: "/a", Target: "/b"}}, ExtraHosts: []string{"db:192.0.2.1"}, NetworkMode: "net",
		PortBindings: map[int]string{80: "127.0.0.1"}, CapAdd: []string{"NET_ADMIN"}, GroupAdd: []string{"docker"},
		DNS: []string{"192.0.2.1"}, Labels: map[string]string{"a": "b"}, RunID: "run", Role: "role",
		Ports: []core.PortMapping{{ContainerPort: 81, Protocol: "tcp", HostIP: "127.0.0.1"}}, Pull: core.PullNever,
		Hostname: "host", NetworkAliases: []string{"alias"},
	}
}

func completeExec() optional.ExecOptions {
	return optional.ExecOptions{Cmd: []string{"sh"}, Env: []string{"A=b"}, WorkingDir: "/work", User: "root"}
}

func completeNetwork() optional.NetworkConfig {
	return optional.NetworkConfig{Name: "net", Subnet: "192.0.2.0/26", RunID: "run", Labels: map[string]string{"a": "b"}}
}

func completeSidecar() core.SidecarConfig {
	return core.SidecarConfig{
		Image: "alpine", Name: "web", Hostname: "host", NetworkID: "net", Cmd: []string{"sh"},
		Mounts: []core.MountConfig{{Source: "/a", Target: "/b"}}, RunID: "run", Env: []string{"A=b"}, Labels: map[string]string{"a": "b"},
		Pull: core.PullNever,
	}
}

func completeService() core.ServiceConfig {
	return core.ServiceConfig{
		Name: "db", Version: "1", Env: map[string]string{"A": "b"}, RunID: "run", Image: "alpine", Ports: map[string]int{"default": 1},
		PasswordEnv: "A", ExtraCmd: []string{"-x"}, ReadinessCmd: "true", NetworkID: "net", Labels: map[string]string{"a": "b"},
		Pull: core.PullNever,
	}
}

func completeBuild() core.BuildOptions {
	return core.BuildOptions{
		DNS: []string{"192.0.2.1"}, ContextFiles: map[string][]byte{"a/b": nil}, Args: map[string]string{"A": "b"},
		Labels: map[string]string{"a": "b"}, RunID: "run",
	}
}

func completeEvents() optional.EventOptions { return optional.EventOptions{Container: "web"} }

// forEachSpoilt calls try with an example of which one text is not UTF-8, or contains a
// NUL byte, and checks that the field is refused.
func forEachSpoilt[T any](f *fixture, example func() T, try func(T) error) {
	f.Helper()
	value := example()
	in := reflect.ValueOf(&value).Elem()
	for i := range in.NumField() {
		field := in.Type().Field(i)
		if !field.IsExported() || field.Anonymous {
			continue
		}
		forEachText(in.Field(i), func(text string) []string { return []string{text + "\xff", text + "\x00"} }, func() {
			f.wantField(fmt.Sprintf("%s.%s with %q", in.Type(), field.Name, in.Field(i)), try(value), field.Name)
		})
	}
}

// forEachText puts others in the place of each text in a value, one at a time, for try.
func forEachText(in reflect.Value, others func(string) []string, try func()) {
	switch in.Kind() {
	case reflect.String:
		text := in.String()
		for _, other := range others(text) {
			in.SetString(other)
			try()
		}
		in.SetString(text)
	case reflect.Slice:
		for i := range in.Len() {
			forEachText(in.Index(i), others, try)
		}
	case reflect.Struct:
		for i := range in.NumField() {
			forEachText(in.Field(i), others, try)
		}
	case reflect.Map:
		for _, key := range in.MapKeys() {
			value := in.MapIndex(key)
			in.SetMapIndex(key, reflect.Value{})
			other := reflect.New(key.Type()).Elem()
			other.Set(key)
			forEachText(other, others, func() {
				in.SetMapIndex(other, value)
				try()
				in.SetMapIndex(other, reflect.Value{})
			})
			other = reflect.New(value.Type()).Elem()
			other.Set(value)
			forEachText(other, others, func() { in.SetMapIndex(key, other); try() })
			in.SetMapIndex(key, value)
		}
	}
}

package core_test

import (
	"errors"
	"testing"

	"github.com/moatproject/moat/core"
)

type managers struct {
	network core.NetworkManager
	sidecar core.SidecarManager
	build   core.BuildManager
	service core.ServiceManager
}

func (m managers) NetworkManager() core.NetworkManager { return m.network }
func (m managers) SidecarManager() core.SidecarManager { return m.sidecar }
func (m managers) BuildManager() core.BuildManager     { return m.build }
func (m managers) ServiceManager() core.ServiceManager { return m.service }

func TestManagerOf(t *testing.T) {
	all := managers{
		network: &struct{ core.NetworkManager }{},
		sidecar: &struct{ core.SidecarManager }{},
		build:   &struct{ core.BuildManager }{},
		service: &struct{ core.ServiceManager }{},
	}
	tests := []struct {
		name string
		want any
		of   func(core.Managers) (any, error)
	}{
		{"network", all.network, func(m core.Managers) (any, error) { return core.NetworkManagerOf(m) }},
		{"sidecar", all.sidecar, func(m core.Managers) (any, error) { return core.SidecarManagerOf(m) }},
		{"build", all.build, func(m core.Managers) (any, error) { return core.BuildManagerOf(m) }},
		{"service", all.service, func(m core.Managers) (any, error) { return core.ServiceManagerOf(m) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got, err := test.of(all); err != nil || got != test.want {
				t.Errorf("got %v, %v", got, err)
			}
			_, err := test.of(managers{})
			if !errors.Is(err, core.ErrUnsupported) {
				t.Fatalf("nil manager: %v", err)
			}
			if want := "use " + test.name + " manager: " + core.ErrUnsupported.Error(); err.Error() != want {
				t.Errorf("got %q, want %q", err, want)
			}
		})
	}
}

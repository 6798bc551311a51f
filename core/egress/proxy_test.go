package egress_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/moatproject/moat/core/egress"
)

func proxyConfig() egress.ProxyConfig {
	return egress.ProxyConfig{
		Listen: "192.0.2.2:3128", Run: "1a2b3c4d", Token: "secret", Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/26")},
		Rules: []string{"example.com", "@pypi"}, Private: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, AllowBy: "ask for",
	}
}

func TestProxyConfig(t *testing.T) {
	config := proxyConfig()
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(config)
	var again egress.ProxyConfig
	if err == nil {
		err = json.Unmarshal(text, &again)
	}
	if err != nil || !reflect.DeepEqual(config, again) {
		t.Errorf("%s is %+v, %v", text, again, err)
	}
}

func TestProxyConfigThatIsWrong(t *testing.T) {
	for field, change := range map[string]func(*egress.ProxyConfig){
		"listen":           func(c *egress.ProxyConfig) { c.Listen = "" },
		"run":              func(c *egress.ProxyConfig) { c.Run = "" },
		"token":            func(c *egress.ProxyConfig) { c.Token = "" },
		"sources":          func(c *egress.ProxyConfig) { c.Sources = nil },
		"private":          func(c *egress.ProxyConfig) { c.Private = append(c.Private, netip.Prefix{}) },
		"relays[0].listen": func(c *egress.ProxyConfig) { c.Relays = []egress.Relay{{To: "db:80"}} },
		"relays[1].to": func(c *egress.ProxyConfig) {
			c.Relays = []egress.Relay{{Listen: ":80", To: "db:80"}, {Listen: ":81", To: "db:"}}
		},
		"rules": func(c *egress.ProxyConfig) { c.Rules = []string{"*"} },
	} {
		config := proxyConfig()
		change(&config)
		if err := config.Validate(); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

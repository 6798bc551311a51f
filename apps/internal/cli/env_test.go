package cli

import "testing"

func TestStateDir(t *testing.T) {
	for _, test := range []struct{ state, home, want string }{
		{"/s", "/h", "/s/moat"},
		{"", "/h", "/h/.local/state/moat"},
		{"relative", "/h", "/h/.local/state/moat"},
	} {
		t.Setenv("XDG_STATE_HOME", test.state)
		t.Setenv("HOME", test.home)
		t.Setenv("XDG_RUNTIME_DIR", "/gone/at/logout")
		if got := ProcessEnv().StateDir; got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

package e2b_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

func TestAVolumeIsMountedShownAndUnmounted(t *testing.T) {
	w := newWorld(t)
	id := w.make(map[string]any{})
	path := "/sandboxes/" + id + "/mounts"
	body := `{"pvName":"scratch","mountPath":"/data/","subPath":"s","readOnly":true,"mountID":"mine","container":"sandbox","allowNonEmpty":true}`
	a := w.as(aliceKey, http.MethodPost, path, body)
	require.Equal(t, 201, a.status, "%s", a.body)
	golden(t, "mount", a)
	again := w.as(aliceKey, http.MethodPost, path, body)
	require.Equal(t, 200, again.status)
	require.Equal(t, a.body, again.body)
	unnamed := w.as(aliceKey, http.MethodPost, path, `{"pvName":"scratch","mountPath":"/data","subPath":"s","readOnly":true}`)
	require.Equal(t, 200, unnamed.status)
	require.Equal(t, a.body, unnamed.body)
	golden(t, "mount", w.as(aliceKey, http.MethodGet, path+"/mine", nil))

	require.Equal(t, 404, w.as(aliceKey, http.MethodGet, path+"/other", nil).status)
	require.Equal(t, 404, w.as(aliceKey, http.MethodDelete, path+"/other", nil).status)
	require.Equal(t, 400, w.as(aliceKey, http.MethodDelete, path+"/mine?force=yes", nil).status)
	require.Equal(t, 204, w.as(aliceKey, http.MethodDelete, path+"/mine", nil).status)
	golden(t, "mounts-none", w.as(aliceKey, http.MethodGet, path, nil))
	require.Equal(t, 404, w.as(aliceKey, http.MethodDelete, path+"/mine", nil).status)
}

func TestAMountThatIsRefusedNamesEveryPlace(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		says       []string
	}{
		{"nothing", ``, 400, []string{"pvName: is required", "mountPath: is required"}},
		{"an array", `[]`, 400, []string{"must be a JSON object"}},
		{"an unknown field", `{"pvName":"scratch","mountPath":"/a","readonly":true}`, 400, []string{"readonly: is not a field"}},
		{"a field given twice", `{"pvName":"scratch","pvName":"scratch","mountPath":"/a"}`, 400, []string{"pvName: is given twice"}},
		{"wrong types and bad words", `{"pvName":7,"mountPath":"a","subPath":"../x","readOnly":"yes","mountID":"","container":"","allowNonEmpty":1}`, 400, []string{
			"pvName: must be a string", "mountPath: ", "subPath: ", "readOnly: must be true or false", "mountID: must not be empty", "container: must not be empty", "allowNonEmpty: must be true or false",
		}},
		{"an unknown volume", `{"pvName":"none","mountPath":"/a"}`, 400, []string{"pvName: no PersistentVolume of that name that you may mount"}},
		{"somebody's volume", `{"pvName":"somebodys","mountPath":"/a"}`, 400, []string{"pvName: no PersistentVolume of that name that you may mount"}},
		{"an unknown volume and an unknown field", `{"pvName":"none","mountPath":"/a/in","x":1}`, 400, []string{"x: is not a field", "mountPath: lies inside /a"}},
		{"a path of the template", `{"pvName":"scratch","mountPath":"/opt/template/x"}`, 400, []string{"mountPath: "}},
		{"another container", `{"pvName":"scratch","mountPath":"/b","container":"other"}`, 400, []string{`container: template "base" has no container of that name; it has "sandbox"`}},
		{"another volume at the path", `{"pvName":"pv-nas-fast","mountPath":"/a"}`, 409, []string{"mountPath: is the target of another mount"}},
		{"the same in another way", `{"pvName":"scratch","mountPath":"/a","readOnly":true}`, 409, []string{"mountPath: is the target of another mount"}},
		{"a path inside", `{"pvName":"scratch","mountPath":"/a/in"}`, 409, []string{"mountPath: lies inside /a"}},
		{"the ID of another", `{"pvName":"scratch","mountPath":"/b","mountID":"first"}`, 409, []string{"mountID: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			id := w.make(config(`[{"pvName":"scratch","mountPath":"/a","mountID":"first"}]`))
			w.pool.OnPublish = func(context.Context, warmpool.ID, mount.Mount) error { return fmt.Errorf("published") }
			a := w.as(aliceKey, http.MethodPost, "/sandboxes/"+id+"/mounts", c.body)
			require.Equal(t, c.status, a.status, "%s", a.body)
			message := a.message(t)
			for _, s := range c.says {
				require.Contains(t, message, s)
			}
			require.NotContains(t, message, "mounts[0]")
		})
	}
}

func TestWhatAMountMeetsInTheSandboxIsToldAndTheRestStays(t *testing.T) {
	w := newWorld(t)
	id := w.make(config(`[{"pvName":"scratch","mountPath":"/a","mountID":"first"}]`))
	path := "/sandboxes/" + id + "/mounts"
	w.pool.OnPublish = func(context.Context, warmpool.ID, mount.Mount) error {
		return warmpool.Errorf(warmpool.Conflict, "volume 'scratch' at /b could not be mounted: target is taken: it is a directory that is not empty")
	}
	a := w.as(aliceKey, http.MethodPost, path, `{"pvName":"scratch","mountPath":"/b"}`)
	require.Equal(t, 409, a.status)
	require.Contains(t, a.message(t), "not empty")
	w.pool.OnUnpublish = func(_ context.Context, _ warmpool.ID, _ mount.Mount, force bool) error {
		if force {
			return fmt.Errorf("volume scratch: %w", warmpool.ErrDataLoss)
		}
		return warmpool.Errorf(warmpool.Conflict, "volume 'scratch' at /a is in use")
	}
	a = w.as(aliceKey, http.MethodDelete, path+"/first", nil)
	require.Equal(t, 409, a.status)
	require.Contains(t, a.message(t), "in use")
	a = w.as(aliceKey, http.MethodDelete, path+"/first?force=true", nil)
	require.Equal(t, 200, a.status)
	var told struct {
		MountID          string
		DataMayBeMissing bool
		Message          string
	}
	require.NoError(t, json.Unmarshal(a.body, &told))
	require.Equal(t, "first", told.MountID)
	require.True(t, told.DataMayBeMissing)
	require.NotEmpty(t, told.Message)
}

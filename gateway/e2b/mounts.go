package e2b

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/tidwall/gjson"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

func (s *server) mounts(c echo.Context) error {
	id, err := sandboxID(c)
	if err != nil {
		return err
	}
	sb, err := s.service.Get(c.Request().Context(), principal(c), id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"sandboxID": sb.ID, "mounts": mountsOf(sb)})
}

func (s *server) mounted(c echo.Context) error {
	id, err := sandboxID(c)
	if err != nil {
		return err
	}
	sb, st, err := s.service.Mounted(c.Request().Context(), principal(c), id, param(c, "mount"))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, mountOf(sb, st))
}

// mount answers 201 for a volume that was mounted, and 200 for one that was there already.
func (s *server) mount(c echo.Context) error {
	var fs faults
	id, o, err := asked(c, &fs)
	if err != nil {
		return err
	}
	specs, where := sound([]wish{wishOf(o, 0)}, &fs)
	ctx, p := c.Request().Context(), principal(c)
	if len(fs) > 0 {
		if len(specs) > 0 { // what else is wrong with it
			err := s.service.CheckMount(ctx, p, id, specs[0])
			if warmpool.CodeOf(err) == warmpool.NotFound {
				return err
			}
			reword(asFaults(err), where, &fs)
		}
		return fs.err()
	}
	st, made, err := s.service.Mount(ctx, p, id, specs[0])
	if err != nil {
		return inMount(err, where)
	}
	sb, err := s.service.Get(ctx, p, id)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if made {
		status = http.StatusCreated
	}
	return c.JSON(status, mountOf(sb, st))
}

// inMount is the error of a mount with its faults in the caller's own places, whatever its code.
func inMount(err error, where []places) error {
	var e *warmpool.Error
	all := asFaults(err)
	if !errors.As(err, &e) || len(all) == 0 {
		return err
	}
	var fs faults
	reword(all, where, &fs)
	var worded *warmpool.Error
	_ = errors.As(fs.err(), &worded) // it always is one
	placed := *e
	placed.Message = worded.Message
	return &placed
}

// unmount answers 204 when everything is written back, and 200 with a warning when that is not sure.
func (s *server) unmount(c echo.Context) error {
	id, err := sandboxID(c)
	if err != nil {
		return err
	}
	force := false
	switch v := c.QueryParam("force"); v {
	case "", "false":
	case "true":
		force = true
	default:
		return warmpool.Errorf(warmpool.Invalid, `force: must be "true" or "false"`)
	}
	mountID := param(c, "mount")
	lossy, err := s.service.Unmount(c.Request().Context(), principal(c), id, mountID, force)
	switch {
	case err != nil:
		return err
	case !lossy:
		return c.NoContent(http.StatusNoContent)
	}
	return c.JSON(http.StatusOK, unmountView{
		MountID: mountID, DataMayBeMissing: true, Message: "the volume is unmounted, but what was written to it last may not have reached the storage",
	})
}

// mountFields are those of one mount in a request.
var mountFields = []string{"pvName", "pvcName", "mountPath", "subPath", "readOnly", "mountID", "container", "allowNonEmpty"}

// wishOf reads one mount. before is how many faults there were without it.
func wishOf(o object, before int) wish {
	o.only(false, mountFields...)
	w := wish{places: places{whole: o.place, fields: map[mount.Field]string{}}, faulty: map[mount.Field]bool{}}
	_, byVolume := o.fields["pvName"]
	if _, byClaim := o.fields["pvcName"]; byClaim {
		w.take(o, "pvcName", mount.FieldVolume, &w.spec.Volume)
		w.spec.Kind = mount.KindClaim
		if byVolume {
			o.faults.add(o.at("pvName"), "names a volume beside pvcName; give one of them")
			w.faulty[mount.FieldVolume] = true
		}
	} else {
		w.take(o, "pvName", mount.FieldVolume, &w.spec.Volume)
	}
	w.take(o, "mountPath", mount.FieldTarget, &w.spec.Target)
	w.take(o, "subPath", mount.FieldSubPath, &w.spec.SubPath)
	w.take(o, "mountID", mount.FieldID, &w.spec.ID)
	w.take(o, "container", mount.FieldContainer, &w.spec.Container)
	w.must(o, "mountID", mount.FieldID)
	w.must(o, "container", mount.FieldContainer)
	w.spec.ReadOnly, _ = o.truth("readOnly")
	w.spec.AllowNonEmpty, _ = o.truth("allowNonEmpty")
	w.places.fields[mount.FieldReadOnly] = o.at("readOnly")
	if len(*o.faults) > before && len(w.faulty) == 0 {
		w.faulty[mount.FieldReadOnly] = true // of a field that no other rule looks at
	}
	return w
}

// must refuses an optional name that is empty.
func (w *wish) must(o object, name string, field mount.Field) {
	if v, given := o.fields[name]; given && v.Type == gjson.String && v.Str == "" {
		o.faults.add(o.at(name), "must not be empty; leave it out for the default")
		w.faulty[field] = true
	}
}

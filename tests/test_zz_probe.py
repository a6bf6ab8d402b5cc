import importlib.util, sys
def test_a(command, tiny, tmp_path):
    import pathlib
    spec=importlib.util.spec_from_file_location("td", pathlib.Path(__file__).with_name("test_door.py")); m=importlib.util.module_from_spec(spec); spec.loader.exec_module(m)
    for args,_ in m.WRONG:
        groups = [arg for arg in args if "=" in arg and "." not in arg.split("=")[0]]
        choice = [g for g in groups if g.split("=")[0] in ("data", "aug") or g == "model=transfer"]
        print(args, command(m.train, *tiny(*choice), *args).err, end="")
    (tmp_path / "file").touch()
    print(command(m.train, *tiny(), f"runs={tmp_path}/file/runs").err)
    for a in (["~seed"],["trainer.devices=two"],["trainer.devices=0"],["trainer.accelerator=tpu"],["trainer.accelerator=gpuu"],["checkpoint.every_n_steps=-1"],["checkpoint.every_n_steps=1.5"],["checkpoint.every_n_minutes=-1"],["runs=5"],["name=a/b"],["name=''"],["data.size=99999999"],["optimizer.fused=null"],["model.widths=[]"],["model.widths=[0,4]"],["model.widths=[-4]"],["data.root=5"],["optimizer.lr=nan"],["optimizer.lr=inf"],["model=[fcn]"],["model=null"],["experiment=x"],["=3"],["model"],["loss.weighted=null"],["schedule.factor=2"],["name=.."],["data.source._target_=os.nothing"],["model._target_=nope.Nope"],["seed=99999999999"],["data.source.seed=-1"],["+optimizer.weight_decay=heavy"],["+optimizer.betas=3"], ["trainer.precision=16-true"],["trainer.deterministic=true"]):
        o=command(m.train, *tiny(), *a); print(a, o.code, o.err[-400:])
    assert 0

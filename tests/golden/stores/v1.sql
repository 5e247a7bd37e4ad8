BEGIN TRANSACTION;
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, model TEXT NOT NULL, measure TEXT NOT NULL,
    split TEXT NOT NULL, batch INTEGER NOT NULL, cells INTEGER NOT NULL, device TEXT NOT NULL,
    seconds REAL NOT NULL, forwards REAL NOT NULL, backwards REAL NOT NULL, hvps REAL NOT NULL,
    error TEXT NOT NULL, finished REAL NOT NULL
);
INSERT INTO "attempt" VALUES(1,1,'d10cb517e3078552eebe5026a448545943c4e800fbea8d43010e7a33803d6834','acutance/error','test',0,1,'cpu',0.01,60.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(2,1,'7dbf548e719a5446613a00e22fce09c60be62cd0db63805235d71d4775497f53','acutance/error','test',0,1,'cpu',0.01,60.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(3,1,'ed1cbc6d3f84a9d0776b1f277c7aba7a0f492a975362e66bae8293edac6d659a','acutance/error','test',0,1,'cpu',0.01,60.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(4,1,'d10cb517e3078552eebe5026a448545943c4e800fbea8d43010e7a33803d6834','acme-toy/weight_norm','train',0,1,'cpu',0.01,0.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(5,1,'d10cb517e3078552eebe5026a448545943c4e800fbea8d43010e7a33803d6834','acutance/average_case','train',0,1,'cpu',0.01,24.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(6,1,'d10cb517e3078552eebe5026a448545943c4e800fbea8d43010e7a33803d6834','acutance/average_case','train',1,1,'cpu',0.01,24.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(7,1,'7dbf548e719a5446613a00e22fce09c60be62cd0db63805235d71d4775497f53','acme-toy/weight_norm','train',0,1,'cpu',0.01,0.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(8,1,'7dbf548e719a5446613a00e22fce09c60be62cd0db63805235d71d4775497f53','acutance/average_case','train',0,1,'cpu',0.01,24.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(9,1,'7dbf548e719a5446613a00e22fce09c60be62cd0db63805235d71d4775497f53','acutance/average_case','train',1,1,'cpu',0.01,24.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(10,1,'ed1cbc6d3f84a9d0776b1f277c7aba7a0f492a975362e66bae8293edac6d659a','acme-toy/weight_norm','train',0,1,'cpu',0.01,0.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(11,1,'ed1cbc6d3f84a9d0776b1f277c7aba7a0f492a975362e66bae8293edac6d659a','acutance/average_case','train',0,1,'cpu',0.01,24.0,0.0,0.0,'',1700000000.0);
INSERT INTO "attempt" VALUES(12,1,'ed1cbc6d3f84a9d0776b1f277c7aba7a0f492a975362e66bae8293edac6d659a','acutance/average_case','train',1,1,'cpu',0.01,24.0,0.0,0.0,'',1700000000.0);
CREATE TABLE cell (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, measure TEXT NOT NULL, version INTEGER NOT NULL,
    spec TEXT NOT NULL, split TEXT NOT NULL, replicate INTEGER NOT NULL, state TEXT NOT NULL,
    value REAL, stderr REAL, status TEXT NOT NULL, message TEXT NOT NULL, extras TEXT NOT NULL
);
INSERT INTO "cell" VALUES('74dee888410bfac241b2dfc5f860176918d49125eaa4826f84998d0727900080','d10cb517e3078552eebe5026a448545943c4e800fbea8d43010e7a33803d6834','acutance/error',1,'{}','test',0,'done',4.66666666666666674068e-01,NULL,'ok','','{"points": 60}');
INSERT INTO "cell" VALUES('8d3176556dbb06bbc4e34a6256d28fadb3edd99530665f2a6cca24f18d4dc285','7dbf548e719a5446613a00e22fce09c60be62cd0db63805235d71d4775497f53','acutance/error',1,'{}','test',0,'done',4.83333333333333337034e-01,NULL,'ok','','{"points": 60}');
INSERT INTO "cell" VALUES('39de1e94a768cf164a8df4172051be2ace3fb44823789cd90c014e749d954899','ed1cbc6d3f84a9d0776b1f277c7aba7a0f492a975362e66bae8293edac6d659a','acutance/error',1,'{}','test',0,'done',2.33333333333333337034e-01,NULL,'ok','','{"points": 60}');
INSERT INTO "cell" VALUES('190cd167b57af52e59d7393548f1b60fadd31d89975eff8b4ee155f15cb35a84','d10cb517e3078552eebe5026a448545943c4e800fbea8d43010e7a33803d6834','acme-toy/weight_norm',1,'{"p": 2.0}','train',0,'done',3.52949118614196777343e+00,NULL,'ok','','{}');
INSERT INTO "cell" VALUES('05927c116c2f07ab832aa4d6e238aaa519992e4b59f67d3bd6336d7049aa8acc','d10cb517e3078552eebe5026a448545943c4e800fbea8d43010e7a33803d6834','acutance/average_case',1,'{"draws": 2, "logit_norm": false, "norm": "l2", "norm_scale": "paper", "parameters": "all", "rho": 0.1, "scaling": "elementwise", "variance_reduction": "none"}','train',0,'done',2.77234811480286114093e-02,6.79859554042065543366e-03,'ok','','{"clean_loss": 0.7831384702021954, "perturbed_loss": 0.810861951350224, "draws": 2.0, "clean_error": 0.4375, "perturbed_error": 0.46875, "batch_stderr": 0.013154979815505702}');
INSERT INTO "cell" VALUES('c4b08822675962a8333f735f66f194f513a1aa3381c07522745505c5c1e2e780','7dbf548e719a5446613a00e22fce09c60be62cd0db63805235d71d4775497f53','acme-toy/weight_norm',1,'{"p": 2.0}','train',0,'done',4.08798885345459,NULL,'ok','','{}');
INSERT INTO "cell" VALUES('fd160aae315b297fa5508dad4fb04cfecfbbb9891707d74afecaf7be51da656c','7dbf548e719a5446613a00e22fce09c60be62cd0db63805235d71d4775497f53','acutance/average_case',1,'{"draws": 2, "logit_norm": false, "norm": "l2", "norm_scale": "paper", "parameters": "all", "rho": 0.1, "scaling": "elementwise", "variance_reduction": "none"}','train',0,'done',1.4373575006430466816e-02,2.38661900162014063361e-03,'ok','','{"clean_loss": 0.8454402390536652, "perturbed_loss": 0.8598138140600956, "draws": 2.0, "clean_error": 0.375, "perturbed_error": 0.375, "batch_stderr": 0.010922688099522598}');
INSERT INTO "cell" VALUES('4ace432ca18d89424bd6c84740ee227fa1dd65334cbdd5b80fcd69f030f91570','ed1cbc6d3f84a9d0776b1f277c7aba7a0f492a975362e66bae8293edac6d659a','acme-toy/weight_norm',1,'{"p": 2.0}','train',0,'done',3.44064116477966308593e+00,NULL,'ok','','{}');
INSERT INTO "cell" VALUES('667f6fb1b314c72353e26c4733b898f380c7f4475a59b834af155e67fe534b47','ed1cbc6d3f84a9d0776b1f277c7aba7a0f492a975362e66bae8293edac6d659a','acutance/average_case',1,'{"draws": 2, "logit_norm": false, "norm": "l2", "norm_scale": "paper", "parameters": "all", "rho": 0.1, "scaling": "elementwise", "variance_reduction": "none"}','train',0,'done',5.11797527587395939541e-03,1.08397065097031643915e-02,'ok','','{"clean_loss": 0.467776856974237, "perturbed_loss": 0.4728948322501109, "draws": 2.0, "clean_error": 0.125, "perturbed_error": 0.125, "batch_stderr": 0.0008466896774363131}');
CREATE TABLE driver (id INTEGER PRIMARY KEY CHECK (id = 1), host TEXT, pid INTEGER, heartbeat REAL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "meta" VALUES('schema','1');
INSERT INTO "meta" VALUES('points','{"test/split": ["3bdf6b6768dfe087d6941922d2f644606765664c173eaf347aae38332d1658ed"], "train/batch": ["d17c4bbe96000d4a7b88b8858c5ed058b2eacedeabf4172c9e62a67842fc92d2", "c46a8d3dfb2f268558408210dc35d902388ee19497da078b511d8fcc452991a4"]}');
CREATE TABLE model (
    pool TEXT NOT NULL, entry TEXT NOT NULL, key TEXT NOT NULL, source TEXT NOT NULL,
    description TEXT NOT NULL, parameters INTEGER NOT NULL, PRIMARY KEY (pool, entry)
);
INSERT INTO "model" VALUES('acme-toy/toy','toy0','d10cb517e3078552eebe5026a448545943c4e800fbea8d43010e7a33803d6834','toy|','{"id": "toy0", "attributes": {"learning_rate": 0.1, "wide": true}, "targets": {}, "architecture": "toy", "train_set": "toy", "run": "", "step": null, "path": null, "log": null}',51);
INSERT INTO "model" VALUES('acme-toy/toy','toy1','7dbf548e719a5446613a00e22fce09c60be62cd0db63805235d71d4775497f53','toy|','{"id": "toy1", "attributes": {"learning_rate": 0.2, "wide": false}, "targets": {}, "architecture": "toy", "train_set": "toy", "run": "", "step": null, "path": null, "log": null}',51);
INSERT INTO "model" VALUES('acme-toy/toy','toy2','ed1cbc6d3f84a9d0776b1f277c7aba7a0f492a975362e66bae8293edac6d659a','toy|','{"id": "toy2", "attributes": {"learning_rate": 0.30000000000000004, "wide": true}, "targets": {}, "architecture": "toy", "train_set": "toy", "run": "", "step": null, "path": null, "log": null}',51);
CREATE TABLE part (
    key TEXT PRIMARY KEY, cell TEXT NOT NULL, batch INTEGER NOT NULL,
    value REAL, stderr REAL, status TEXT NOT NULL, message TEXT NOT NULL, extras TEXT NOT NULL
);
INSERT INTO "part" VALUES('91f152461347c076e9145725957f1205497d58bac2dd40b7088472f5808618c7','74dee888410bfac241b2dfc5f860176918d49125eaa4826f84998d0727900080',0,4.66666666666666674068e-01,NULL,'ok','','{"points": 60}');
INSERT INTO "part" VALUES('3af4089d6c0bec94f9eabf76ed521992a0294f07ebd41a778aeaff47b2a159ac','8d3176556dbb06bbc4e34a6256d28fadb3edd99530665f2a6cca24f18d4dc285',0,4.83333333333333337034e-01,NULL,'ok','','{"points": 60}');
INSERT INTO "part" VALUES('654e86b6923097978b3f776c2090f8a21c35d999eab67a5c304dcd180c047373','39de1e94a768cf164a8df4172051be2ace3fb44823789cd90c014e749d954899',0,2.33333333333333337034e-01,NULL,'ok','','{"points": 60}');
INSERT INTO "part" VALUES('5a56b82d0a046530d3ff087ad1a750c45e333a989df7b1028664564d35d7f463','190cd167b57af52e59d7393548f1b60fadd31d89975eff8b4ee155f15cb35a84',0,3.52949118614196777343e+00,NULL,'ok','','{}');
INSERT INTO "part" VALUES('f0f062476dda6e8eb05d674dd6da3d80b54c7761532594d0ec142781accaf05b','05927c116c2f07ab832aa4d6e238aaa519992e4b59f67d3bd6336d7049aa8acc',0,4.08784609635343132438e-02,9.09903269060163832904e-03,'ok','','{"clean_loss": 0.7302497467613489, "perturbed_loss": 0.7711282077248832, "draws": 2, "clean_error": 0.25, "perturbed_error": 0.3125}');
INSERT INTO "part" VALUES('d5ce60cc84e68c7f0f60f07da5c124bbc4146e569e907d82e6786fa90f125ba8','05927c116c2f07ab832aa4d6e238aaa519992e4b59f67d3bd6336d7049aa8acc',1,1.45685013325229095748e-02,1.01040194667406102446e-02,'ok','','{"clean_loss": 0.8360271936430419, "perturbed_loss": 0.8505956949755649, "draws": 2, "clean_error": 0.625, "perturbed_error": 0.625}');
INSERT INTO "part" VALUES('ae97b04cd763989c422c08aa13d8f805c873d6755f72a6cc6dd4982996341346','c4b08822675962a8333f735f66f194f513a1aa3381c07522745505c5c1e2e780',0,4.08798885345459,NULL,'ok','','{}');
INSERT INTO "part" VALUES('eee76db50f3190aeabb33fe75ac283310854e0b7f13cf57006efb3267ea8f7af','fd160aae315b297fa5508dad4fb04cfecfbbb9891707d74afecaf7be51da656c',0,3.45088690690786847881e-03,0.00202023596903933,'ok','','{"clean_loss": 0.9819644311953559, "perturbed_loss": 0.9854153181022638, "draws": 2, "clean_error": 0.5, "perturbed_error": 0.5}');
INSERT INTO "part" VALUES('7de5ec3f720b7601f137531b973ccb80918e6c503f171ed90b755abbdc16eebf','fd160aae315b297fa5508dad4fb04cfecfbbb9891707d74afecaf7be51da656c',1,2.52962631059530651533e-02,4.32463266243238164676e-03,'ok','','{"clean_loss": 0.7089160469119744, "perturbed_loss": 0.7342123100179274, "draws": 2, "clean_error": 0.25, "perturbed_error": 0.25}');
INSERT INTO "part" VALUES('ffd4056c4e752019d1bee3e695546ab68ff7f0bb348f2a602267acfcf3b0d0a8','4ace432ca18d89424bd6c84740ee227fa1dd65334cbdd5b80fcd69f030f91570',0,3.44064116477966308593e+00,NULL,'ok','','{}');
INSERT INTO "part" VALUES('e414636d2ff763f745e8f010afc636af8a9331c28f9a6bb826af0674d763b906','667f6fb1b314c72353e26c4733b898f380c7f4475a59b834af155e67fe534b47',0,4.27128559843764632475e-03,1.92888883878300498864e-03,'ok','','{"clean_loss": 0.46038769174477595, "perturbed_loss": 0.4646589773432136, "draws": 2, "clean_error": 0.125, "perturbed_error": 0.125}');
INSERT INTO "part" VALUES('a63c43dd9b2a8b62c71cc9f73f5b5851dccf734fb06508a2fc9429acba3a3a42','667f6fb1b314c72353e26c4733b898f380c7f4475a59b834af155e67fe534b47',1,5.96466495331027246606e-03,2.15934327218629817934e-02,'ok','','{"clean_loss": 0.47516602220369797, "perturbed_loss": 0.48113068715700824, "draws": 2, "clean_error": 0.125, "perturbed_error": 0.125}');
CREATE TABLE run (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, finished REAL, state TEXT NOT NULL,
    config TEXT NOT NULL, environment TEXT NOT NULL
);
INSERT INTO "run" VALUES(1,1700000000.0,1700000001.0,'done','{"format": 1, "title": "old", "paper": [], "seed": 0, "requires": {}, "pools": [{"name": "acme-toy/toy", "size": 3, "fault": ""}], "dataset": {"name": "acme-toy/toy", "classes": 3, "shift": 0}, "surface": {"points": 16, "m": 8, "batches": "partition", "split": "train", "validation": "", "select": "balanced", "augment": false, "loss": "cross_entropy", "dtype": "float32", "arithmetic": "exact", "batch_norm": "eval", "parameters": "all", "microbatch": null, "checkpointing": false, "cuda_graphs": false}, "admit": {}, "targets": ["test_error"], "groups": [], "within": ["architecture"], "measures": [{"name": "weight_norm"}, {"name": "average_case", "rho": 0.1, "draws": 2}], "executor": {"name": "acutance/serial"}, "analysis": {"resamples": null}, "figures": {"colour": null, "marker": [], "size": null}}','{}');
CREATE INDEX part_cell ON part (cell);
COMMIT;

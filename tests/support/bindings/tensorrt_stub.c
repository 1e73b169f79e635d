/* The functions that TensorRT's Python bindings need to be imported, doing nothing: libnvinfer, libnvinfer_plugin and
   libnvonnxparser in one. */
#define ABSENT(name) \
    void *name(void) \
    { \
        return 0; \
    }

ABSENT(createInferBuilder_INTERNAL)
ABSENT(createInferRefitter_INTERNAL)
ABSENT(createInferRuntime_INTERNAL)
ABSENT(createNvOnnxParserRefitter_INTERNAL)
ABSENT(createNvOnnxParser_INTERNAL)
ABSENT(getBuilderPluginRegistry)
ABSENT(getInferLibVersion)
ABSENT(getNvOnnxParserVersion)
ABSENT(getPluginRegistry)
ABSENT(initLibNvInferPlugins)
